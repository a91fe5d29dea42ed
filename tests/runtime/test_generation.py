"""Whole generations: parity with transformers, and what a request's tokens may depend on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from gpt2ja_onnx import GenerationConfig, GPT2Ja
from gpt2ja_onnx.errors import (
    CancelledError,
    GenerationError,
    PromptError,
    RequestTimeoutError,
    SettingError,
)
from tests.conftest import CONTEXT, VOCABULARY

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import GPT2LMHeadModel

PROMPTS = [
    "朝の市場",
    "図",
    "この町の鉄道は、大正時代に石炭を運ぶために敷かれた。",
    "彼は大学を卒業したあと、",
    "水は零度で凍り、百度で沸騰するが、気圧が変わると沸点も変わる。地球は太陽のまわりを",
]
SAMPLED = GenerationConfig(do_sample=True, top_k=20, top_p=0.9, max_new_tokens=24, seed=7)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 30},
        {"suppress_tokens": [5, 9, 40]},
        {"bad_words_ids": [[7], [20, 21]]},
    ],
)
def test_greedy_ids_are_those_of_transformers(
    fp32_model: GPT2Ja,
    torch_model: GPT2LMHeadModel,
    rng: np.random.Generator,
    settings: dict[str, Any],
) -> None:
    ids = rng.integers(6, VOCABULARY, (5, 11))
    expected = torch_model.generate(
        torch.from_numpy(ids),
        attention_mask=torch.ones(ids.shape, dtype=torch.int64),
        do_sample=False,
        max_new_tokens=40,
        pad_token_id=0,
        **settings,
    )
    found = fp32_model.generate_ids(ids, do_sample=False, max_new_tokens=40, **settings)
    assert isinstance(expected, torch.Tensor)
    np.testing.assert_array_equal(found, expected.numpy())


def test_ragged_greedy_batch_is_each_prompt_alone_in_transformers(
    fp32_model: GPT2Ja, torch_model: GPT2LMHeadModel
) -> None:
    for result in fp32_model.generate(PROMPTS, do_sample=False, max_new_tokens=30):
        ids = torch.tensor([fp32_model.tokenizer.encode(result.prompt)])
        expected = torch_model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=30,
            pad_token_id=0,
        )
        assert result.token_ids == expected[0, ids.shape[1] :].tolist()


def test_alone_batched_staggered_and_streamed_are_the_same(model: GPT2Ja) -> None:
    alone = [model.generate(prompt, SAMPLED)[0] for prompt in PROMPTS]
    batched = model.generate(PROMPTS * 3, SAMPLED)
    assert [r.token_ids for r in batched] == [r.token_ids for r in alone] * 3
    # Staggered: others enter and leave the batch while each of these runs.
    handles, others = [], []
    for index, prompt in enumerate(PROMPTS):
        others.append(model.submit("県の文化財", do_sample=True, max_new_tokens=index + 1))
        handles.append(model.submit(prompt, SAMPLED))
        next(iter(handles[-1]))
    assert [h.result()[0].token_ids for h in handles] == [r.token_ids for r in alone]
    for prompt, result in zip(PROMPTS, alone, strict=True):
        assert "".join(chunk.text for chunk in model.stream(prompt, SAMPLED)) == result.text


def test_a_shared_prefix_changes_nothing(model: GPT2Ja) -> None:
    instruction = PROMPTS[4]
    prompts = [instruction + end for end in ("", "月", "月の満ち欠け", "約三百", "月")]
    alone = [model.generate(prompt, SAMPLED)[0].token_ids for prompt in prompts]
    assert [r.token_ids for r in model.generate(prompts, SAMPLED)] == alone


def test_sequences_of_one_prompt_differ_and_repeat(model: GPT2Ja) -> None:
    first = model.generate(PROMPTS[0], SAMPLED, num_return_sequences=20)
    assert [r.sequence_index for r in first] == list(range(20))
    assert len({tuple(r.token_ids) for r in first}) > 15
    assert (
        first[3].token_ids
        == model.generate(PROMPTS[0], SAMPLED, num_return_sequences=4)[3].token_ids
    )
    assert {r.seed for r in first} == {7}


def test_without_a_seed_each_request_draws_and_reports_one(model: GPT2Ja) -> None:
    one, two = model.generate([PROMPTS[0]] * 2, SAMPLED, seed=None)
    assert one.seed != two.seed
    assert model.generate(PROMPTS[0], SAMPLED, seed=one.seed)[0].token_ids == one.token_ids


def test_settings_differ_within_a_batch(model: GPT2Ja) -> None:
    settings = [
        SAMPLED,
        GenerationConfig(max_new_tokens=24),
        SAMPLED.override({"repetition_penalty": 1.5, "top_k": 0}),
        SAMPLED.override({"temperature": 0.5, "typical_p": 0.5}),
    ]
    alone = [model.generate(PROMPTS[0], config)[0].token_ids for config in settings]
    together = model.generate_many((PROMPTS[0], config) for config in settings)
    assert [r[0].token_ids for r in together if isinstance(r, list)] == alone


@pytest.mark.parametrize("length", [CONTEXT - 1, CONTEXT])
def test_the_context_ends_a_text(model: GPT2Ja, rng: np.random.Generator, length: int) -> None:
    ids = rng.integers(6, VOCABULARY, length).tolist()
    (result,) = model.generate_many([(ids, SAMPLED)])
    assert isinstance(result, list)
    assert result[0].finish_reason == "context"
    assert result[0].completion_tokens == CONTEXT - length


def test_a_text_runs_up_to_the_context(model: GPT2Ja, rng: np.random.Generator) -> None:
    ids = rng.integers(6, VOCABULARY, CONTEXT - 6)
    found = model.generate_ids(ids, max_new_tokens=50, do_sample=True)
    assert found.shape == (1, CONTEXT)


def test_prompts_that_cannot_be_continued(model: GPT2Ja) -> None:
    with pytest.raises(PromptError, match="empty"):
        model.generate("")
    with pytest.raises(PromptError, match=f"129 tokens, the context is {CONTEXT}"):
        model.generate_ids(np.full(CONTEXT + 1, 7))
    with pytest.raises(PromptError, match="whole numbers from 0 to 383"):
        model.generate_ids(np.array([VOCABULARY]))
    with pytest.raises(SettingError, match="suppress_tokens must hold ids below 384"):
        model.generate("図", suppress_tokens=[VOCABULARY])
    with pytest.raises(TypeError, match="unknown setting 'topp'"):
        model.generate("図", topp=0.9)  # type: ignore[call-arg] # what a type checker says too
    assert model.generate([]) == []


def test_stop_strings_end_the_text_before_them(model: GPT2Ja) -> None:
    config = SAMPLED.override({"min_new_tokens": 24})
    whole = model.generate(PROMPTS[0], config)[0].text
    stop = whole[7:10]
    (result,) = model.generate(PROMPTS[0], config, stop=stop)
    assert result.finish_reason == "stop"
    assert result.text == whole[: whole.index(stop)]
    assert result.completion_tokens < 24


def test_logprobs_are_those_of_torch(fp32_model: GPT2Ja, torch_model: GPT2LMHeadModel) -> None:
    (result,) = fp32_model.generate(PROMPTS[2], SAMPLED, logprobs=3)
    prompt = fp32_model.tokenizer.encode(PROMPTS[2])
    with torch.inference_mode():
        logits = torch_model(torch.tensor([prompt + result.token_ids])).logits[0]
    expected = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    assert result.logprobs is not None
    for row, token, entry in zip(expected, result.token_ids, result.logprobs, strict=True):
        assert entry.logprob == pytest.approx(row[token].item(), abs=1e-4)
        assert [token for token, _ in entry.best] == row.topk(3).indices.tolist()


def test_memory_budget_bounds_the_rows(bundles: dict[str, Path]) -> None:
    """A row of 64 positions takes 64 KiB, and a quarter more to move: three fit."""
    short = SAMPLED.override({"max_new_tokens": 12})
    with GPT2Ja.load(bundles["fp32"]) as model:
        expected = [r.token_ids for r in model.generate(PROMPTS * 2, short)]
    with GPT2Ja.load(bundles["fp32"], max_memory=3 * 80 * 1024) as model:
        assert [r.token_ids for r in model.generate(PROMPTS * 2, short)] == expected
        assert model._worker._engine.batch.cache.nbytes == 3 * 64 * 1024
    with (
        GPT2Ja.load(bundles["fp32"], max_memory=80 * 1024) as model,
        pytest.raises(GenerationError, match="163840 bytes of cache, max_memory is 81920"),
    ):
        model.generate(PROMPTS[0], max_new_tokens=100)


def test_cancel_and_timeout_end_one_request_alone(model: GPT2Ja) -> None:
    long = SAMPLED.override({"max_new_tokens": 100, "num_return_sequences": 64})
    cancelled, other = model.submit(PROMPTS[0], long), model.submit(PROMPTS[1], SAMPLED)
    cancelled.cancel()
    with pytest.raises(CancelledError):
        cancelled.result()
    with pytest.raises(RequestTimeoutError, match=r"timeout of 0\.001 s"):
        model.submit(PROMPTS[0], long, timeout=0.001).result()
    assert other.result()[0].token_ids == model.generate(PROMPTS[1], SAMPLED)[0].token_ids


def test_a_stream_has_one_chunk_a_token(model: GPT2Ja) -> None:
    for prompt in PROMPTS[:3]:
        result = model.generate(prompt, SAMPLED)[0]
        chunks = list(model.stream(prompt, SAMPLED))
        assert [chunk.token_id for chunk in chunks] == result.token_ids
        assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_leaving_a_stream_cancels_it(model: GPT2Ja) -> None:
    stream = model.stream(PROMPTS[0], SAMPLED, max_new_tokens=100)
    next(stream)
    stream.close()
    assert len(model.generate(PROMPTS[0], SAMPLED, min_new_tokens=24)[0].token_ids) == 24


def test_asyncio_twins(model: GPT2Ja) -> None:
    async def both() -> tuple[str, str]:
        (result,) = await model.agenerate(PROMPTS[0], SAMPLED)
        chunks = [chunk.text async for chunk in model.astream(PROMPTS[0], SAMPLED)]
        return result.text, "".join(chunks)

    text, streamed = asyncio.run(both())
    assert text == streamed == model.generate(PROMPTS[0], SAMPLED)[0].text


def test_shared_and_new_prompts_alternate_in_one_batch(model: GPT2Ja) -> None:
    """Rows that copy a prefix stand between rows that compute theirs."""
    order = [2, 0, 2, 1, 2, 3, 4, 4]
    alone = [model.generate(PROMPTS[index], SAMPLED)[0].token_ids for index in order]
    together = model.generate([PROMPTS[index] for index in order], SAMPLED)
    assert [result.token_ids for result in together] == alone
