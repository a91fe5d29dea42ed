"""Keys and values kept as int8: their ranges written into the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpt2ja_export.graph_editor import GraphEditor
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt2ja_onnx.bundle.manifest import ModelShape

_INPUTS = 14  # of GroupQueryAttention, up to the scales
_SCALES = (12, 13)  # of keys, of values
# What another text drives beyond the range that this one showed is clipped, so leave some room.
_LONG_TEXT = 4000  # tokens
_ROOM: dict[names.CachePart, float] = {"key": 1.2, "value": 1.1}
_ROOM_OF_SHORT_TEXT: dict[names.CachePart, float] = {"key": 1.5, "value": 1.2}


def quantize_cache(
    model: ir.Model, shape: ModelShape, value_ranges: Sequence[float], calibration_tokens: int
) -> dict[str, object]:
    """Let every attention of the fused fp32 graph `model` keep its cache as int8, in place.

    One scale a layer serves all keys, and one all values, for all rows and positions: what a
    row's cache holds depends on that row alone.

    Args:
        model: The fused graph of an equalised model: its keys reach from -1 to 1.
        shape: Of the model.
        value_ranges: Largest absolute value of each layer.
        calibration_tokens: Length of the text that these ranges are of.

    Returns:
        What was done, for the manifest.

    Raises:
        ExportError: Not every layer has an attention.
    """
    room = _ROOM if calibration_tokens >= _LONG_TEXT else _ROOM_OF_SHORT_TEXT
    editor = GraphEditor(model.graph)
    nodes = editor.nodes("GroupQueryAttention")
    if len(nodes) != shape.layers:
        raise ExportError(f"{len(nodes)} caches were quantised, expected {shape.layers}")
    for layer, node in enumerate(nodes):
        node.resize_inputs(_INPUTS)
        largest = (1, value_ranges[layer] or 1)
        for index, part, reach in zip(_SCALES, names.CACHE_PARTS, largest, strict=True):
            scale = np.array([room[part] * reach / 127], dtype=np.float32)
            node.replace_input_with(index, editor.store(f"cache.{layer}.{part}.scale", scale))
            for value in (
                editor.input(names.past_name(layer, part)),
                editor.output(names.present_name(layer, part)),
            ):
                value.type = ir.TensorType(ir.DataType.INT8)
            node.attributes.add(ir.AttrString(f"{part[0]}_quant_type", "PER_TENSOR"))
        node.attributes.add(ir.AttrInt64("kv_cache_bit_width", 8))
    return {"cache": "int8 per layer, keys of equal range", "cache_room": room}
