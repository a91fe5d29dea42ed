"""Candidates found by blocks are those of a sort of all scores."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from gpt2ja_export.add_candidates import add_candidates
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.bundle.manifest import ModelShape

COUNT = 8


def run(logits: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Operators of the graph, and its candidates."""
    value = ir.val("given", ir.DataType.FLOAT, ["rows", "positions", logits.shape[2]])
    scores = ir.Node("", "Identity", [value])
    scores.outputs[0].name = names.LOGITS
    scores.outputs[0].type = value.type
    scores.outputs[0].shape = value.shape
    graph = ir.Graph([value], [scores.outputs[0]], nodes=[scores], opset_imports={"": 18})
    shape = ModelShape(
        layers=1, width=8, heads=1, context=16, vocab_size=logits.shape[2], candidates=COUNT
    )
    add_candidates(graph, shape)
    operators = [node.op_type for node in graph]
    data = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found, ids = session.run([names.CANDIDATE_SCORES, names.CANDIDATE_IDS], {"given": logits})
    return operators, np.asarray(found), np.asarray(ids)


@pytest.mark.parametrize("vocabulary", [8, 37, 480, 512, 3200])
@pytest.mark.parametrize("levels", [3, 50, 0])
def test_best_scores_with_ties(vocabulary: int, levels: int) -> None:
    random = np.random.default_rng(vocabulary + levels)
    logits = random.standard_normal((3, 2, vocabulary)).astype(np.float32)
    if levels:  # few values, so that most scores are tied with others
        logits = np.rint(logits * levels / 4).astype(np.float32)
    operators, scores, ids = run(logits)
    assert ("ReduceMax" in operators) == (vocabulary in (512, 3200))
    every = np.broadcast_to(np.arange(vocabulary), logits.shape)
    order = np.lexsort((every, -logits))[..., :COUNT]
    np.testing.assert_array_equal(scores, np.take_along_axis(logits, order, axis=2))
    np.testing.assert_array_equal(np.take_along_axis(logits, ids, axis=2), scores)
    # Above the last candidate nothing is left open.
    certain = scores > scores[..., -1:]
    np.testing.assert_array_equal(ids[certain], order[certain])
    rising = (scores[..., 1:] < scores[..., :-1]) | (ids[..., 1:] > ids[..., :-1])
    assert rising.all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_reach_the_candidates(value: float) -> None:
    logits = np.zeros((1, 1, 512), dtype=np.float32)
    logits[0, 0, :] = value
    assert not np.isfinite(run(logits)[1]).any()
