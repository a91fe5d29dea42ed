"""Choice between continuations: exact against scores, split and normalised as documented."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gpt2ja_onnx import PromptError, SettingError
from tests.conftest import CONTEXT, SAMPLE
from tests.idle import wait_until_idle

if TYPE_CHECKING:
    from gpt2ja_onnx import GPT2Ja

LINES = SAMPLE.read_text(encoding="utf-8").splitlines()


def random_ids(seed: int, *lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(6, 300, size=length).tolist() for length in lengths]


@pytest.mark.parametrize("length", [1, 2, 8, 9, 10, 50, CONTEXT - 20, CONTEXT - 1])
def test_logprobs_are_those_of_score(model: GPT2Ja, length: int) -> None:
    """On both sides of the shortest prefix that is shared, up to a full context, bit for bit."""
    prompt, *options = random_ids(length, length, 1, 2, 1, 5, 18)
    options = [option for option in options if length + len(option) <= CONTEXT]
    choice = model.choose(prompt, [*options, options[0]])
    for found, option in zip(choice.options, [*options, options[0]], strict=True):
        (score,) = model.score([prompt + option])
        assert found.token_logprobs == score.token_logprobs[length:]
        assert found.logprob == math.fsum(found.token_logprobs)
        assert found.score == found.logprob / len(option)
        assert (found.token_ids, found.tokens, found.option) == (option, len(option), "")
    scores = [found.score for found in choice.options]
    assert choice.best == scores.index(max(scores))


def test_texts_are_split_as_lm_evaluation_harness_does(model: GPT2Ja) -> None:
    prompt, options = LINES[0][:30] + " \u3000", [LINES[1][:9], LINES[2][:4], LINES[3][:20]]
    border = len(model.tokenizer.encode(prompt.rstrip()))
    choice = model.choose(prompt, options)
    for found, option in zip(choice.options, options, strict=True):
        (score,) = model.score(prompt + option)
        assert found.option == option
        assert found.token_ids == score.token_ids[border:]
        assert found.token_logprobs == score.token_logprobs[border:]


def test_a_border_inside_a_token(model: GPT2Ja) -> None:
    """The whole may be cut otherwise before the border than the prompt alone."""
    encode = model.tokenizer.encode
    text = "".join(LINES)
    cut = next(
        end
        for end in range(20, 60)
        if (alone := encode(text[:end])) != encode(text[: end + 8])[: len(alone)]
    )
    prompt, options = text[:cut], [text[cut : cut + 8], LINES[4][:8]]
    for found, option in zip(model.choose(prompt, options).options, options, strict=True):
        (score,) = model.score(prompt + option)
        assert found.token_logprobs == score.token_logprobs[len(encode(prompt)) :]


def test_normalisations(model: GPT2Ja) -> None:
    prompt, other, options = LINES[0][:30], "朝の", [LINES[1][:9], LINES[2][:3]]
    plain = model.choose(prompt, options, normalize="none").options
    assert all(found.score == found.logprob for found in plain)
    by_length = model.choose(prompt, options, normalize="characters").options
    assert [f.score for f in by_length] == [
        f.logprob / len(o) for f, o in zip(plain, options, strict=True)
    ]
    behind = model.choose(other, options, normalize="none").options
    found = model.choose(prompt, options, normalize="unconditional", unconditional=other).options
    assert [f.unconditional_logprob for f in found] == [f.logprob for f in behind]
    assert [f.score for f in found] == [
        a.logprob - b.logprob for a, b in zip(plain, behind, strict=True)
    ]


def test_the_prompt_is_computed_once(fp32_model: GPT2Ja, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    scoring = fp32_model._worker._engine.scoring
    run = scoring._run

    def counted(ids: Any, start: int, stop: int, *rest: Any, **named: Any) -> Any:
        computed.append(len(ids) * (stop - start))
        return run(ids, start, stop, *rest, **named)

    monkeypatch.setattr(scoring, "_run", counted)
    prompt, *options = random_ids(4, 100, *[3] * 20)
    fp32_model.choose(prompt, options)
    assert sum(computed) == 99 + 20 * 4  # the prompt's last token with every option


def test_others_beside_it_change_nothing(model: GPT2Ja) -> None:
    """More options than one turn computes, among texts to score and to generate."""
    prompt, *options = random_ids(5, 60, *[40] * 120)
    alone = model.choose(prompt, options)
    expected = model.score(LINES[:6])
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(model.choose(prompt, options))),
        threading.Thread(target=lambda: found.append(model.choose(prompt, options))),
    ]
    for thread in threads:
        thread.start()
    assert model.score(LINES[:6]) == expected
    model.generate("朝の", max_new_tokens=20)
    for thread in threads:
        thread.join()
    assert found == [alone, alone]


def test_asyncio(model: GPT2Ja) -> None:
    prompt, *options = random_ids(6, 40, 2, 3)

    async def run() -> None:
        assert await model.achoose(prompt, options) == model.choose(prompt, options)
        task = asyncio.create_task(model.achoose(prompt, options * 500))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    wait_until_idle(model)
    assert model.statistics().waiting == 0


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (("", ["あ"]), {}, "the prompt is empty"),
        (("朝の", []), {}, "options must be a list"),
        (("朝の", "市場"), {}, "options must be a list"),
        (("朝の", ["市場", ""]), {}, "option 1: has no token of its own"),
        (([9], [[]]), {}, "option 0: has no token of its own"),
        (([9], ["市場"]), {}, "all be texts, or all lists of token ids"),
        (([9], [[10**6]]), {}, "token ids must be whole numbers"),
        (([9] * CONTEXT, [[9]]), {}, "has 129 tokens with the prompt, the context is 128"),
    ],
    ids=str,
)
def test_what_cannot_be_chosen_from(
    fp32_model: GPT2Ja, arguments: Any, settings: Any, said: str
) -> None:
    with pytest.raises(PromptError, match=said):
        fp32_model.choose(*arguments, **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"normalize": "bytes"}, "normalize must be one of none, tokens, characters, uncond"),
        ({"normalize": "characters"}, "needs options that are texts"),
        ({"normalize": "unconditional"}, "needs an unconditional prompt, and only that"),
        ({"unconditional": [9]}, "needs an unconditional prompt, and only that"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit(fp32_model: GPT2Ja, settings: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        fp32_model.choose([9], [[10]], **settings)
