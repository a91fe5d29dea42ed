"""Keys and values kept as int8: their scales written into the graph."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpt2ja_export.graph_editor import GraphEditor
from gpt2ja_export.rounding import LOW_STEPS
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


def cache_room(calibration_tokens: int) -> dict[names.CachePart, float]:
    """How far keys and values may reach, over what a text of so many tokens showed."""
    return _ROOM if calibration_tokens >= _LONG_TEXT else _ROOM_OF_SHORT_TEXT


def cache_scales(
    value_ranges: Sequence[float], room: dict[names.CachePart, float]
) -> list[tuple[float, float]]:
    """Scales of keys and of values, by layer.

    Args:
        value_ranges: Largest absolute value of each layer of an equalised model, whose keys reach
            from -1 to 1.
        room: From `cache_room`.
    """
    return [(room["key"] / 127, room["value"] * (reach or 1) / 127) for reach in value_ranges]


def quantize_cache(
    model: ir.Model, shape: ModelShape, scales: Sequence[tuple[float, float]]
) -> None:
    """Let every attention of the fused fp32 graph `model` keep its cache as int8, in place.

    One scale a layer serves all keys, and one all values, for all rows and positions: what a
    row's cache holds depends on that row alone.

    Args:
        model: The fused graph of an equalised model.
        shape: Of the model; it says which layers' caches have two bytes of each number.
        scales: From `cache_scales`.

    Raises:
        ExportError: Not every layer has an attention.
    """
    editor = GraphEditor(model.graph)
    nodes = editor.nodes("GroupQueryAttention")
    if len(nodes) != shape.layers:
        raise ExportError(f"{len(nodes)} caches were quantised, expected {shape.layers}")
    for layer, node in enumerate(nodes):
        node.resize_inputs(_INPUTS)
        for index, part, scale in zip(_SCALES, names.CACHE_PARTS, scales[layer], strict=True):
            array = np.array([scale], dtype=np.float32)
            node.replace_input_with(index, editor.store(f"cache.{layer}.{part}.scale", array))
            for value in (
                editor.input(names.past_name(layer, part)),
                editor.output(names.present_name(layer, part)),
            ):
                value.type = ir.TensorType(ir.DataType.INT8)
                kept = shape.cached_sizes[layer]
                value.shape = ir.Shape(["rows", shape.heads, "capacity", kept])
            node.attributes.add(ir.AttrString(f"{part[0]}_quant_type", "PER_TENSOR"))
        node.attributes.add(ir.AttrInt64("kv_cache_bit_width", 8))
        if layer in shape.cache_16_bits:
            _TwoBytes(model.graph, shape, node).write()


class _TwoBytes(GraphEditor):
    """An attention whose cache has a high and a low byte of each number.

    The attention takes them for heads of twice the size: queries q and q / 254 meet high and low
    bytes of keys, and a 254th part of what the low bytes of values give is added to the rest.
    """

    def __init__(self, graph: ir.Graph, shape: ModelShape, attention: ir.Node) -> None:
        super().__init__(graph)
        self._shape = shape
        self._attention = attention
        self._steps = self.store("cache.low_steps", np.array(LOW_STEPS, dtype=np.float32))

    def write(self) -> None:
        """Write the nodes before and behind the attention."""
        size = self._shape.head_size
        split = ir.Node(
            "",
            "Split",
            [self._reshaped(self._attention.inputs[0], [0, 0, -1, size])],
            [ir.AttrInt64("axis", 2), ir.AttrInt64("num_outputs", 3)],
            num_outputs=3,
        )
        self.graph.insert_before(self._attention, split)
        queries, keys, values = split.outputs
        key_scale, value_scale = (self._attention.inputs[index] for index in _SCALES)
        heads = [
            self._joined([queries, self._before("Div", queries, self._steps)], axis=3),
            self._bytes(keys, key_scale),
            self._bytes(values, value_scale),
        ]
        packed = self._reshaped(self._joined(heads, axis=2), [0, 0, -1])
        self._attention.replace_input_with(0, packed)
        self._attention.attributes.add(ir.AttrFloat32("scale", 1 / math.sqrt(size)))
        self._add_low_outputs()

    def _bytes(self, numbers: ir.Value, scale: ir.Value | None) -> ir.Value:
        """High and low bytes of shape (…, size), one behind the other, times the scale."""
        scaled = self._before("Div", numbers, scale)
        high = self._whole(scaled)
        rest = self._before("Mul", self._before("Sub", scaled, high), self._steps)
        return self._before("Mul", self._joined([high, self._whole(rest)], axis=3), scale)

    def _whole(self, numbers: ir.Value) -> ir.Value:
        bounds = [
            self.store(f"cache.{name}", np.array(bound, dtype=np.float32))
            for name, bound in (("least", -127), ("most", 127))
        ]
        return self._before("Clip", self._before("Round", numbers), *bounds)

    def _joined(self, parts: Sequence[ir.Value], axis: int) -> ir.Value:
        return self.insert(self._attention, "Concat", parts, [ir.AttrInt64("axis", axis)])

    def _reshaped(self, value: ir.Value | None, dims: Sequence[int]) -> ir.Value:
        return self._before("Reshape", value, self._dims(dims))

    def _before(self, op_type: str, *inputs: ir.Value | None) -> ir.Value:
        return self.insert(self._attention, op_type, inputs)

    def _dims(self, dims: Sequence[int]) -> ir.Value:
        name = "cache.dims." + ".".join(map(str, dims))
        return self.store(name, np.array(dims, dtype=np.int64))

    def _add_low_outputs(self) -> None:
        given = self._attention.outputs[0]
        users = list(given.uses())
        shares = np.array([[1], [1 / LOW_STEPS]], dtype=np.float32)
        bytes_axis = self.store("cache.bytes_axis", np.array([3], dtype=np.int64))
        steps: list[tuple[str, ir.Value, list[ir.Attr]]] = [
            ("Reshape", self._dims([0, 0, -1, 2, self._shape.head_size]), []),
            ("Mul", self.store("cache.shares", shares), []),
            ("ReduceSum", bytes_axis, [ir.AttrInt64("keepdims", 0)]),
            ("Reshape", self._dims([0, 0, -1]), []),
        ]
        last, value = self._attention, given
        for op_type, second, attributes in steps:
            node = ir.Node("", op_type, [value, second], attributes)
            self.graph.insert_after(last, node)
            last, value = node, node.outputs[0]
        for node, index in users:
            node.replace_input_with(index, value)
