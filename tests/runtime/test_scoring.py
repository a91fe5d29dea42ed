"""Scores against PyTorch, and texts longer than the context."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from gpt2ja_onnx.errors import PromptError, SettingError
from tests.conftest import CONTEXT, SAMPLE
from tests.tolerances import LOGPROB, assert_near

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

    from gpt2ja_onnx import GPT2Ja


def windowed_logprob(model: GPT2LMHeadModel, ids: list[int], stride: int) -> float:
    """transformers' recipe for perplexity with a stride, as one sum."""
    total, fresh = 0.0, 1
    for start in range(0, len(ids), stride):
        stop = min(start + CONTEXT, len(ids))
        with torch.inference_mode():
            logits = model(torch.tensor([ids[start:stop]])).logits[0].double().log_softmax(-1)
        for position in range(fresh, stop):
            total += logits[position - start - 1, ids[position]].item()
        fresh = stop
        if stop == len(ids):
            break
    return total


def test_ids_score_as_their_text_does(fp32_model: GPT2Ja) -> None:
    text = SAMPLE.read_text(encoding="utf-8").splitlines()[0]
    by_text, by_ids = fp32_model.score([text, fp32_model.tokenizer.encode(text)])
    assert by_ids.logprob == by_text.logprob
    assert by_ids.text == ""
    with pytest.raises(PromptError, match="whole numbers"):
        fp32_model.score([[5, -1]])


def test_scores_are_those_of_torch(fp32_model: GPT2Ja, torch_model: GPT2LMHeadModel) -> None:
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    texts = [*lines[:9], "", "図", "".join(lines[:4]), "".join(lines[:30])]
    for score in fp32_model.score(texts):
        ids = fp32_model.tokenizer.encode(score.text)
        assert score.tokens == len(ids)
        expected = windowed_logprob(torch_model, ids, CONTEXT // 2)
        assert_near(score.logprob / max(len(ids), 1), expected / max(len(ids), 1), LOGPROB)
        if len(ids) > 1:
            assert score.perplexity == pytest.approx(np.exp(-score.logprob / (len(ids) - 1)))
        else:
            assert (score.logprob, score.perplexity) == (0, None)


@pytest.mark.parametrize(
    ("stride", "length"),
    [(1, CONTEXT - 1), (1, CONTEXT), (1, CONTEXT + 1)]  # longer ones add windows, and no case
    + [(s, n) for s in (50, CONTEXT - 1) for n in (CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT)],
)
def test_windows_score_every_token_once(
    fp32_model: GPT2Ja, torch_model: GPT2LMHeadModel, length: int, stride: int
) -> None:
    ids = np.random.default_rng(1).integers(6, 384, length).tolist()
    found = fp32_model.score([ids], stride=stride)[0].logprob
    assert_near(found / length, windowed_logprob(torch_model, ids, stride) / length, LOGPROB)


def test_a_stride_out_of_range(fp32_model: GPT2Ja) -> None:
    with pytest.raises(SettingError, match="stride must be from 1 to 127, not 0"):
        fp32_model.score("朝の", stride=0)


def test_the_best_tokens_of_every_position(
    model: GPT2Ja, fp32_model: GPT2Ja, torch_model: GPT2LMHeadModel
) -> None:
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    texts = [*lines[:3], "", "図", "".join(lines[:30])]
    plain = model.score(texts)
    for score, alone in zip(model.score(texts, best=5), plain, strict=True):
        assert score.token_logprobs == alone.token_logprobs
        assert score.best is not None
        assert alone.best is None
        assert len(score.best) == score.tokens
        assert score.best[:1] in ([], [None])
        for token, logprob, best in zip(
            score.token_ids[1:], score.token_logprobs[1:], score.best[1:], strict=True
        ):
            assert best is not None
            values = [value for _, value in best]
            assert len(values) == 5
            assert values == sorted(values, reverse=True)
            assert dict(best).get(token, logprob) == logprob  # the same number, not a near one
    (score,) = fp32_model.score(lines[0], best=3)
    with torch.inference_mode():
        logits = torch_model(torch.tensor([score.token_ids])).logits[0].double().log_softmax(-1)
    expected = logits[:-1].topk(3)
    assert score.best is not None
    for best, values, ids in zip(
        score.best[1:], expected.values.tolist(), expected.indices.tolist(), strict=True
    ):
        assert best is not None
        assert [token for token, _ in best] == ids
        assert_near([value for _, value in best], values, LOGPROB)


def test_more_best_tokens_than_there_are_candidates(fp32_model: GPT2Ja) -> None:
    with pytest.raises(SettingError, match="best must be from 0 to 64, not 65"):
        fp32_model.score("朝の", best=65)
