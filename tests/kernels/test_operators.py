"""Embeddings, candidates, and all operators in a model: the same bits in any company."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpt2ja_onnx.bundle.demo import demo_bundle
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.device.cpu.session import CpuSession
from tests.conftest import VOCABULARY
from tests.kernels.one_operator import OneOperator
from tests.kernels.operator_inputs import DEMO_SHAPE, both, embedding, floats

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from gpt2ja_kernels import Kernels

pytestmark = pytest.mark.usefixtures("native")


@pytest.mark.parametrize("levels", [2, 40, 0])
@pytest.mark.parametrize("rows", [1, 6])
def test_candidates(quantized: dict[str, Path], levels: int, rows: int) -> None:
    for bundle, vocabulary in ((quantized["int8"], VOCABULARY), (demo_bundle(), DEMO_SHAPE[1])):
        logits = floats(np.random.default_rng(levels), rows, 2, vocabulary)
        if levels:  # few values, so that most scores are tied with others
            logits = np.rint(logits * levels / 4).astype(np.float32)
        found, expected = both(bundle, "Candidates", [logits], {"count": 64})
        for ours, standard in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, standard)


def test_candidates_of_no_rows(quantized: dict[str, Path]) -> None:
    logits = np.empty((0, 2, 100), dtype=np.float32)
    operator = OneOperator(quantized["int8"], "Candidates", [logits], {"count": 64}, native=True)
    assert [output.shape for output in operator([logits])] == [(0, 2, 64)] * 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_reach_the_candidates(value: float) -> None:
    logits = np.full((1, 1, DEMO_SHAPE[1]), value, dtype=np.float32)
    operator = OneOperator(demo_bundle(), "Candidates", [logits], {"count": 64}, native=True)
    scores, ids = operator([logits])
    assert not np.isfinite(scores).any()
    assert len(set(ids.ravel().tolist()) & set(range(DEMO_SHAPE[1]))) == 64


@pytest.mark.parametrize(("rows", "new", "width"), [(1, 1, 768), (5, 7, 33), (0, 1, 8), (64, 1, 1)])
def test_embed(quantized: dict[str, Path], rows: int, new: int, width: int) -> None:
    (found,), (expected,) = both(quantized["int8"], "Embed", embedding(rows, new, width), {})
    np.testing.assert_array_equal(found, expected)


# --- all of them in a model ---

IDS = np.random.default_rng(5).integers(6, VOCABULARY, 97)


def logits(
    bundle: Path, kernels: Kernels, threads: int, cuts: list[int], copies: int = 1
) -> NDArray[np.float32]:
    """Scores after every token of a text that is read in pieces, by the last of several rows."""
    session = CpuSession(bundle, read_manifest(bundle), threads=threads)
    assert session.kernels == kernels.instruction_set
    cache = session.new_cache()
    cache.reserve(copies, len(IDS), 0)
    pieces = []
    for begin, end in zip([0, *cuts], [*cuts, len(IDS)], strict=True):
        plan = cache.plan(0, copies, end - begin, end - begin)
        plan.input_ids[...] = (IDS[begin:end] + 7 * np.arange(copies)[::-1, None]) % VOCABULARY
        plan.position_ids[...] = np.arange(begin, end)
        plan.lengths[...] = end
        plan.logit_positions[...] = np.arange(end - begin)
        plan.run()
        pieces.append(plan.all_logits()[-1])
    return np.concatenate(pieces)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_text_at_once_in_pieces_and_token_by_token(
    quantized: dict[str, Path], native: Kernels, precision: str, threads: int
) -> None:
    bundle = quantized[precision]
    expected = logits(bundle, native, 1, [])
    assert np.isfinite(expected).all()
    for cuts in ([], [1], [96], [13, 14, 50], list(range(1, len(IDS)))):
        np.testing.assert_array_equal(logits(bundle, native, threads, cuts), expected)
    steps = list(range(1, len(IDS)))
    for cuts in ([], steps):
        np.testing.assert_array_equal(logits(bundle, native, threads, cuts, copies=5), expected)
