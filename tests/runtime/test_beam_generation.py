"""Whole beam searches: parity with transformers, and what else runs in the same batch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from gpt2ja_onnx import GenerationConfig, GPT2Ja
from gpt2ja_onnx.errors import CancelledError, GenerationError, RequestTimeoutError, SettingError
from gpt2ja_onnx.sampling.state import random_stream
from gpt2ja_onnx.settings.keywords import Settings
from tests.conftest import CONTEXT, VOCABULARY
from tests.idle import wait_until_idle
from tests.runtime.test_generation import PROMPTS, SAMPLED

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import GPT2LMHeadModel

BEAMS = GenerationConfig(num_beams=3, num_return_sequences=2, max_new_tokens=16)
NEVER: Any = "never"


def reference(
    model: GPT2LMHeadModel, prompt: list[int], eos: int, **settings: Any
) -> list[list[int]]:
    """The continuations of transformers' beams, without what pads them."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), pad_token_id=eos, eos_token_id=eos, **settings
    )
    texts = output[:, len(prompt) :].tolist()
    return [text[: text.index(eos) + 1] if eos in text else text for text in texts]


def found_ids(model: GPT2Ja, prompt: list[int], **settings: Any) -> list[list[int]]:
    (outcome,) = model.generate_many([(prompt, GenerationConfig(**settings))])
    assert not isinstance(outcome, Exception), outcome
    return [result.token_ids for result in outcome]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 2, "num_return_sequences": 2, "length_penalty": 2.0},
        {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.0, "early_stopping": True},
        {"num_beams": 5, "num_return_sequences": 5, "early_stopping": "never"},
        {"num_beams": 3, "length_penalty": -1.0, "early_stopping": "never"},
        {"num_beams": 3, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
        {"num_beams": 5, "repetition_penalty": 0.8, "num_return_sequences": 3},
        {"num_beams": 3, "min_new_tokens": 6, "early_stopping": True},
        {"num_beams": 2, "bad_words_ids": [[7], [20, 21]], "suppress_tokens": [5, 9, 40]},
    ],
)
def test_ids_are_those_of_transformers(
    fp32_model: GPT2Ja, torch_model: GPT2LMHeadModel, settings: dict[str, Any]
) -> None:
    settings = {"do_sample": False, "max_new_tokens": 12} | settings
    rng = np.random.default_rng(settings["num_beams"])
    for length in (1, 9):
        prompt = rng.integers(6, VOCABULARY, length).tolist()
        whole = reference(torch_model, prompt, 3, **settings)
        assert found_ids(fp32_model, prompt, **settings) == whole
        # The random model seldom ends a text: a token out of the middle takes the end's place.
        eos = whole[-1][len(whole[-1]) // 2]
        ended = reference(torch_model, prompt, eos, **settings)
        assert found_ids(fp32_model, prompt, eos_token_id=eos, **settings) == ended


@pytest.mark.parametrize(
    "settings",
    [{"top_k": 8, "temperature": 0.7}, {"top_k": 0, "top_p": 0.6, "min_p": 0.02}, {"top_k": 1}],
)
def test_drawn_ids_are_those_of_transformers_with_the_same_numbers(
    fp32_model: GPT2Ja,
    torch_model: GPT2LMHeadModel,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
) -> None:
    settings = {"do_sample": True, "num_beams": 3, "num_return_sequences": 3} | settings
    random = random_stream(5, 0)

    def multinomial(probabilities: torch.Tensor, num_samples: int) -> torch.Tensor:
        """Numbers go to the tokens that can be drawn: beam by beam, the likeliest first."""
        flat = probabilities[0].double().numpy()
        possible = np.flatnonzero(flat)
        order = np.lexsort((-possible, -flat[possible], possible // VOCABULARY))
        possible = possible[order]
        noise = -np.log(-np.log(random.random(len(possible))))
        drawn = possible[np.argsort(-(np.log(flat[possible]) + noise))]
        # Too few can be drawn at first when little is kept; the rest has no probability.
        rest = np.setdiff1d(np.arange(len(flat)), drawn)[::-1]
        return torch.from_numpy(np.append(drawn, rest)[:num_samples][None].copy())

    prompt = fp32_model.tokenizer.encode(PROMPTS[2])
    monkeypatch.setattr(torch, "multinomial", multinomial)
    expected = reference(torch_model, prompt, 3, max_new_tokens=12, **settings)
    assert found_ids(fp32_model, prompt, max_new_tokens=12, seed=5, **settings) == expected


def test_more_beams_than_the_graph_has_candidates(
    bundles: dict[str, Path], torch_model: GPT2LMHeadModel
) -> None:
    settings = {"num_beams": 40, "num_return_sequences": 40, "max_new_tokens": 4}
    with GPT2Ja.load(bundles["fp32"], batch_size=40) as model:
        prompt = model.tokenizer.encode(PROMPTS[0])
        expected = reference(torch_model, prompt, 3, do_sample=False, **settings)
        assert found_ids(model, prompt, **settings) == expected


def test_alone_and_in_any_company_are_the_same(model: GPT2Ja) -> None:
    drawn = BEAMS.override({"do_sample": True, "seed": 3})
    items = [(PROMPTS[index % 5], [BEAMS, SAMPLED, drawn][index % 3]) for index in range(12)]
    alone = [[r.token_ids for r in model.generate(*item)] for item in items]
    handles = [model.submit(*item) for item in items]
    assert [[r.token_ids for r in handle.result()] for handle in handles] == alone


def test_stop_strings_end_a_beam(model: GPT2Ja) -> None:
    # Without a penalty nothing can be likelier than the beginning of the likeliest text.
    config = BEAMS.override({"length_penalty": 0})
    stop = model.generate(PROMPTS[0], config)[0].text[5:7]
    results = model.generate(PROMPTS[0], config, stop=stop)
    assert results[0].finish_reason == "stop"
    for result in results:
        assert stop not in result.text
        text = model.tokenizer.decode(result.token_ids)
        assert (stop in text) == (result.finish_reason == "stop")


@pytest.mark.parametrize("early_stopping", [True, "never"])
def test_stop_strings_end_the_beams_that_a_criterion_ends_in_transformers(
    fp32_model: GPT2Ja, torch_model: GPT2LMHeadModel, early_stopping: Any
) -> None:
    prompt = fp32_model.tokenizer.encode(PROMPTS[3])
    settings: dict[str, Any] = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 12}
    settings["early_stopping"] = early_stopping
    (whole,) = fp32_model.generate_many([(prompt, GenerationConfig(**settings))])
    assert not isinstance(whole, Exception)
    stop = whole[1].text[4:6]

    def stops(ids: torch.Tensor, scores: object) -> torch.Tensor:
        texts = [fp32_model.tokenizer.decode(row) for row in ids[:, len(prompt) :].tolist()]
        return torch.tensor([stop in text for text in texts])

    padded = reference(
        torch_model, prompt, 3, do_sample=False, stopping_criteria=[stops], **settings
    )
    for ids, found in zip(
        padded, found_ids(fp32_model, prompt, stop=stop, **settings), strict=True
    ):
        assert ids[: len(found)] == found
        assert set(ids[len(found) :]) <= {3}


def test_logprobs_are_those_of_torch(fp32_model: GPT2Ja, torch_model: GPT2LMHeadModel) -> None:
    prompt = fp32_model.tokenizer.encode(PROMPTS[2])
    for result in fp32_model.generate(PROMPTS[2], BEAMS, logprobs=2, repetition_penalty=1.3):
        with torch.inference_mode():
            logits = torch_model(torch.tensor([prompt + result.token_ids])).logits[0]
        rows = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        assert result.logprobs is not None
        for row, token, entry in zip(rows, result.token_ids, result.logprobs, strict=True):
            assert entry.logprob == pytest.approx(row[token].item(), abs=1e-4)
            assert [token for token, _ in entry.best] == row.topk(2).indices.tolist()


@pytest.mark.parametrize("room", [0, 1, 5])
def test_the_context_ends_a_search(model: GPT2Ja, room: int) -> None:
    prompt = np.random.default_rng(0).integers(6, VOCABULARY, CONTEXT - room).tolist()
    (results,) = model.generate_many([(prompt, BEAMS)])
    assert not isinstance(results, Exception)
    assert [(r.finish_reason, r.completion_tokens) for r in results] == [("context", room)] * 2


def test_cancel_and_timeout_free_the_rows(model: GPT2Ja) -> None:
    long = BEAMS.override({"num_beams": 8, "max_new_tokens": 100, "early_stopping": NEVER})
    expected = [r.token_ids for r in model.generate(PROMPTS[1], BEAMS)]
    cancelled, other = model.submit(PROMPTS[0], long), model.submit(PROMPTS[1], BEAMS)
    cancelled.cancel()
    with pytest.raises(CancelledError):
        cancelled.result()
    with pytest.raises(RequestTimeoutError):
        model.submit(PROMPTS[0], long, timeout=0.001).result()
    assert [r.token_ids for r in other.result()] == expected
    wait_until_idle(model)


def test_what_cannot_be_searched_is_refused(bundles: dict[str, Path], model: GPT2Ja) -> None:
    with pytest.raises(GenerationError, match="num_beams is 9, but only 8 sequences run at once"):
        model.generate(PROMPTS[0], num_beams=9)
    with pytest.raises(SettingError, match="a stream needs num_beams 1, not 3"):
        model.stream(PROMPTS[0], BEAMS)
    with pytest.raises(SettingError, match="a stream needs num_beams 1, not 3"):
        asyncio.run(model.astream(PROMPTS[0], BEAMS).__anext__())
    few = Settings(do_sample=True, top_k=1, max_new_tokens=1, num_return_sequences=3)
    with pytest.raises(GenerationError, match="leave the beams 2 texts, num_return_sequences is 3"):
        model.generate(PROMPTS[0], BEAMS, **few)
    with GPT2Ja.load(bundles["fp32"], max_memory=2 * 80 * 1024) as small:
        assert len(small.generate(PROMPTS[0], num_beams=2)) == 1
        with pytest.raises(GenerationError, match="245760 bytes of cache, max_memory is 163840"):
            small.generate(PROMPTS[0], BEAMS)


def test_a_handle_gives_the_texts_token_by_token(model: GPT2Ja) -> None:
    handle = model.submit(PROMPTS[0], BEAMS)
    chunks = list(handle)
    for result in handle.result():
        own = [chunk for chunk in chunks if chunk.sequence_index == result.sequence_index]
        assert [chunk.token_id for chunk in own] == result.token_ids
        assert "".join(chunk.text for chunk in own) == result.text
        assert own[-1].finish_reason == result.finish_reason
