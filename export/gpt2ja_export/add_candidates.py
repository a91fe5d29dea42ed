"""The best scores and their ids beside the logits, so that sampling need not look at them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpt2ja_export.graph_editor import GraphEditor
from gpt2ja_onnx.bundle import names

if TYPE_CHECKING:
    from gpt2ja_onnx.bundle.manifest import Device, ModelShape

# Scores a block, measured; whole blocks must fill the vocabulary.
_BLOCK = 32
# With fewer blocks than this for each candidate, looking at blocks first saves nothing.
_LEAST_BLOCKS = 2


def add_candidates(graph: ir.Graph, shape: ModelShape, device: Device = "cpu") -> None:
    """Add the outputs ``candidate_scores`` and ``candidate_ids`` to a graph with ``logits``.

    They are sorted by falling score, equal scores by rising id. On the CPU they are looked for
    in the blocks with the largest maxima, as many as there are candidates: every score above the
    last candidate lies in one of them, since each of the others has a maximum below or equal to
    that many. Of scores equal to the last candidate some may be left out, as always.

    Args:
        graph: A fused graph.
        shape: Says how many candidates to add.
        device: That the graph is for.
    """
    editor = GraphEditor(graph)
    logits = editor.output(names.LOGITS)
    blocks = shape.vocab_size // _BLOCK
    fits = shape.vocab_size % _BLOCK == 0 and blocks >= _LEAST_BLOCKS * shape.candidates
    if device == "cpu" and fits:
        scores, ids = _best_of_best_blocks(editor, logits, blocks, shape.candidates)
    else:
        scores, ids = _top(editor, logits, shape.candidates)
    dims = ir.Shape(["rows", "positions", shape.candidates])
    for value, name, kind in (
        (scores, names.CANDIDATE_SCORES, ir.DataType.FLOAT),
        (ids, names.CANDIDATE_IDS, ir.DataType.INT64),
    ):
        value.name, value.type, value.shape = name, ir.TensorType(kind), dims
    graph.outputs[1:1] = [scores, ids]


def _best_of_best_blocks(
    editor: GraphEditor, logits: ir.Value, blocks: int, count: int
) -> tuple[ir.Value, ir.Value]:
    def whole(name: str, array: list[int]) -> ir.Value:
        return editor.store(f"candidates.{name}", np.array(array, dtype=np.int64))

    last, line = whole("last_axis", [-1]), whole("line", [0, 0, -1])
    blocked = editor.append("Reshape", [logits, whole("blocks", [0, 0, blocks, _BLOCK])])
    largest = editor.append("ReduceMax", [blocked, last], [ir.AttrInt64("keepdims", 0)])
    _, best = _top(editor, largest, count)
    best, _ = _top(editor, best, count, largest=False)  # rising, so that equal ids rise
    places = editor.append("Unsqueeze", [best, last])
    picked = editor.append("GatherND", [blocked, places], [ir.AttrInt64("batch_dims", 2)])
    first = editor.append("Mul", [places, whole("block", [_BLOCK])])
    ids = editor.append("Add", [first, whole("in_block", [*range(_BLOCK)])])
    scores, order = _top(editor, editor.append("Reshape", [picked, line]), count)
    flat = editor.append("Reshape", [ids, line])
    chosen = editor.append("GatherElements", [flat, order], [ir.AttrInt64("axis", 2)])
    return scores, chosen


def _top(
    editor: GraphEditor, values: ir.Value, count: int, *, largest: bool = True
) -> tuple[ir.Value, ir.Value]:
    """The largest or smallest values along the last axis, sorted, and where they are."""
    size = editor.store("candidates.count", np.array([count], dtype=np.int64))
    node = ir.Node("", "TopK", [values, size], [ir.AttrInt64("largest", largest)], num_outputs=2)
    editor.graph.append(node)
    return node.outputs[0], node.outputs[1]
