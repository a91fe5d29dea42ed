"""The small graph of a bundle for cuda that moves blocks of the key-value cache on the device.

onnxruntime's Python interface copies whole tensors only. This graph copies any blocks of one
buffer to any blocks of another, or of the same one: all are read before the first is written.
Blocks are rows of 8-byte words, so that one graph serves every type of cache.
"""

from __future__ import annotations

import onnx_ir as ir

from gpt2ja_export.optimum_export import OPSET
from gpt2ja_onnx.bundle import names

_IR_VERSION = 10


def cache_move_graph() -> ir.Model:
    """Gather the blocks at `from`, and scatter them to the blocks at `to`.

    The target is an input and, bound to the same memory, the output; the kernels then write the
    scattered blocks alone.
    """
    int64 = ir.DataType.INT64
    source = ir.val(names.MOVE_SOURCE, int64, ["source_blocks", "words"])
    target = ir.val(names.MOVE_TARGET, int64, ["target_blocks", "words"])
    origins = ir.val(names.MOVE_FROM, int64, ["moved"])
    goals = ir.val(names.MOVE_TO, int64, ["moved", 1])
    shape = ir.val(names.MOVE_SHAPE, int64, [2])  # of what is moved; it lives on the CPU
    picked = ir.node("Gather", [source, origins], {"axis": 0})
    indices = ir.node("Expand", [goals, shape])
    scattered = ir.node(
        "ScatterElements", [target, indices.outputs[0], picked.outputs[0]], {"axis": 0}
    )
    moved = scattered.outputs[0]
    moved.name, moved.type, moved.shape = names.MOVED, ir.TensorType(int64), target.shape
    graph = ir.Graph(
        [source, target, origins, goals, shape],
        [moved],
        nodes=[picked, indices, scattered],
        opset_imports={"": OPSET},
        name="gpt2ja_onnx_cache",
    )
    return ir.Model(graph, ir_version=_IR_VERSION)
