"""What a prompt is computed to does not depend on what it is computed with, or behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpt2ja_onnx import GenerationConfig
from gpt2ja_onnx.engine.batch import Batch
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.engine.group import SequenceGroup
from gpt2ja_onnx.engine.prefill import Prefill, pieces
from gpt2ja_onnx.engine.sequence import Sequence
from gpt2ja_onnx.engine.statistics import Counters
from tests.conftest import CONTEXT, VOCABULARY
from tests.fakes import FakeSession, expected_ids, make_group, run, token_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2ja_onnx import GPT2Ja
    from gpt2ja_onnx.device.cpu.session import CpuSession

BLOCK = 64  # positions that flash attention would compute at a time
IDS = np.random.default_rng(0).integers(6, VOCABULARY, CONTEXT)


def computed(session: CpuSession, *prompts: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """All scores after prompts that are computed together."""
    batch = Batch(session.new_cache())
    batch.cache.reserve(len(prompts), CONTEXT, 0)
    for ids in prompts:
        group = SequenceGroup(
            ids, GenerationConfig(max_new_tokens=3), eos=(), context=CONTEXT, tokenizer=None
        )
        batch.enter([Sequence(group, 0)])
    scores = Prefill(session, batch, Counters())(batch.running)
    return [scores.logits.row(row) for row in range(len(prompts))]


@pytest.mark.parametrize("length", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 2])
def test_alone_and_among_longer_prompts(session: CpuSession, length: int) -> None:
    (alone,) = computed(session, IDS[:length])
    among, *_ = computed(session, IDS[:length], IDS[::-1][: CONTEXT - 4])
    np.testing.assert_array_equal(alone, among)


@pytest.mark.parametrize("rest", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 2])
def test_at_once_and_behind_a_shared_prefix(session: CpuSession, rest: int) -> None:
    prompt = IDS[: 24 + rest]
    (alone,) = computed(session, prompt)
    _, behind = computed(session, np.append(IDS[:24], (prompt[24] + 1) % VOCABULARY), prompt)
    np.testing.assert_array_equal(alone, behind)


@pytest.mark.parametrize("size", [16, 24, 40, BLOCK])
def test_at_once_and_piece_by_piece(
    session: CpuSession, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for length in (size + 1, min(2 * size, CONTEXT - 4), CONTEXT - 3):
        monkeypatch.undo()
        (whole,) = computed(session, IDS[:length])
        monkeypatch.setattr(session, "prompt_tokens", size)
        found, *_ = computed(session, IDS[:length], IDS[::-1][:length], IDS[:9])
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


def test_first_tokens_do_not_wait_for_copies_of_their_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(FakeSession(), max_rows=8)
    request = make_group([1, 2, 3], num_return_sequences=6, max_new_tokens=4)
    copy, begun = engine.batch.cache.copy, []

    def watched(source: int, target: int, length: int) -> None:
        begun.append([sequence.begun for sequence in engine.batch.running])
        copy(source, target, length)

    monkeypatch.setattr(engine.batch.cache, "copy", watched)
    run(engine, [request])
    assert begun == [[True] * 6] * 5
    assert token_ids(request) == [expected_ids([1, 2, 3], 4)] * 6


def test_sequences_that_end_at_once_need_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(FakeSession(), max_rows=8)
    monkeypatch.setattr(engine.batch.cache, "copy", None)  # would fail if it was called
    request = make_group([1, 2, 3], num_return_sequences=6, max_new_tokens=1)
    run(engine, [request])
    assert token_ids(request) == [expected_ids([1, 2, 3], 1)] * 6
