"""What a prompt is computed to does not depend on what it is computed with, or behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpt2ja_onnx import GenerationConfig
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.engine.prefill import pieces
from gpt2ja_onnx.engine.request import Request
from tests.conftest import CONTEXT, VOCABULARY

if TYPE_CHECKING:
    from gpt2ja_onnx import GPT2Ja
    from gpt2ja_onnx.device.logits import Logits

BLOCK = 64  # positions that flash attention would compute at a time
IDS = np.random.default_rng(0).integers(6, VOCABULARY, CONTEXT)


def computed(model: GPT2Ja, *prompts: np.ndarray) -> list[Logits]:
    """Scores after prompts that enter an engine together."""
    engine = Engine(model._session, max_rows=len(prompts))
    config = GenerationConfig(max_new_tokens=3)
    requests = [
        Request("", 0, ids, config, model.tokenizer, None, CONTEXT) for ids in prompts
    ]  # fmt: skip
    for request in requests:
        engine.add(request)
    engine.step()
    assert all(request.first_choice is not None for request in requests)
    return [request.first_choice[2] for request in requests if request.first_choice]


@pytest.mark.parametrize("length", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 2])
def test_alone_and_among_longer_prompts(model: GPT2Ja, length: int) -> None:
    (alone,) = computed(model, IDS[:length])
    among, *_ = computed(model, IDS[:length], IDS[::-1][: CONTEXT - 4])
    np.testing.assert_array_equal(alone, among)


@pytest.mark.parametrize("rest", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 2])
def test_at_once_and_behind_a_shared_prefix(model: GPT2Ja, rest: int) -> None:
    prompt = IDS[: 24 + rest]
    (alone,) = computed(model, prompt)
    _, behind = computed(model, np.append(IDS[:24], (prompt[24] + 1) % VOCABULARY), prompt)
    np.testing.assert_array_equal(alone, behind)


@pytest.mark.parametrize("size", [16, 24, 40, BLOCK])
def test_at_once_and_piece_by_piece(
    model: GPT2Ja, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for length in (size + 1, min(2 * size, CONTEXT - 4), CONTEXT - 3):
        monkeypatch.undo()
        (whole,) = computed(model, IDS[:length])
        monkeypatch.setattr(model._session, "prompt_tokens", size)
        found, *_ = computed(model, IDS[:length], IDS[::-1][:length], IDS[:9])
        np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("start", [0, 1, 30])
@pytest.mark.parametrize("longest", [16, 100, 128])
def test_no_piece_is_a_single_token(start: int, longest: int) -> None:
    for stop in range(start + 2, start + 400):
        found = list(pieces(start, stop, longest))
        assert [start, *(end for _, end in found)] == [*(begin for begin, _ in found), stop]
        assert all(1 < end - begin <= longest for begin, end in found)


@pytest.mark.parametrize("length", [2, BLOCK, BLOCK + 1])
def test_scores_alone_and_among_longer_texts(model: GPT2Ja, length: int) -> None:
    texts = [IDS[:length].tolist(), IDS[::-1][: 2 * BLOCK].tolist()]
    (alone,) = model.score(texts[:1])
    assert model.score(texts)[0].logprob == alone.logprob
