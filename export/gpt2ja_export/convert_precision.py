"""The fused fp32 graph to the other precisions: int8, int4, fp16 and bf16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from gpt2ja_export.graph_editor import MICROSOFT, GraphEditor, constant
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gpt2ja_onnx.bundle.manifest import ModelShape, Precision

_ZERO_POINT = 128  # activations are uint8 around 128: the int8 × int8 kernel is many times slower
INT4_BLOCK = 32


def convert_precision(model: ir.Model, shape: ModelShape, precision: Precision) -> dict[str, Any]:
    """Rewrite the fused fp32 graph `model` in place to `precision`.

    Returns:
        What was done, for the manifest.

    Raises:
        ExportError: Not every product of the graph was quantised.
    """
    if precision == "fp32":
        return {}
    if precision in ("fp16", "bf16"):
        _to_half(model, ir.DataType.FLOAT16 if precision == "fp16" else ir.DataType.BFLOAT16)
        return {"kept_in_fp32": ["logits"]}
    quantizer = _Quantizer(model, shape)
    quantizer.quantize_head()
    if precision == "int8":
        quantizer.quantize_layers_int8()
        method = {"weights": "int8 per output column", "activations": "uint8 per row"}
    else:
        quantizer.quantize_layers_int4()
        method = {
            "weights": f"int4 in blocks of {INT4_BLOCK}",
            "embedding_and_head": "int8 per row",
            "activations": "int8 in blocks",
        }
    quantizer.check()
    return method | {"products": quantizer.products}


@dataclass(frozen=True, slots=True)
class _Scaled:
    """A quantised activation: (values - 128) × step × the largest absolute value of each row."""

    values: ir.Value
    step: ir.Value
    largest: ir.Value


class _Quantizer(GraphEditor):
    def __init__(self, model: ir.Model, shape: ModelShape) -> None:
        super().__init__(model.graph)
        self.shape = shape
        self.products = 0

    def check(self) -> None:
        expected = 4 * self.shape.layers + 1
        left = [n for n in self.graph if n.op_type in ("MatMul", "Gemm", "FusedMatMul")]
        if self.products != expected or left:
            raise ExportError(
                f"{self.products} products were quantised, expected {expected}; "
                f"{len(left)} are left in fp32"
            )

    def quantize_head(self) -> None:
        """Embedding and head as one int8 matrix (vocabulary, width) with a scale a row.

        A checkpoint whose head is not tied gets a matrix of its own for it.
        """
        head = self._head()
        tied = head.op_type == "FusedMatMul"
        lookup = next(n for n in self.nodes("Gather") if n.inputs[1] is self.input(names.INPUT_IDS))
        embedding = constant(lookup.inputs[0])
        matrix, scales = self._store_rows("embedding", embedding)
        self._quantize_lookup(lookup, matrix, scales)
        if not tied:
            matrix, scales = self._store_rows("head", constant(head.inputs[1]).T)
        self._quantize_product(head, matrix, scales, transposed=True)

    def quantize_layers_int8(self) -> None:
        """Weights int8 per output column, activations uint8 with a scale a row.

        A row's scale is its own and integer sums are exact, so a row's result does not depend on
        the rest of the batch.
        """
        for node, name, weight in self._layer_products():
            scales = _scales(weight, axis=0)
            matrix = np.rint(weight / scales).astype(np.int8)
            self._quantize_product(
                node,
                self.store(f"{name}.int8", matrix),
                self.store(f"{name}.scale", scales[0]),
                transposed=False,
            )

    def quantize_layers_int4(self) -> None:
        """Weights int4 in blocks along the input, each with its own scale and zero point."""
        for node, name, weight in self._layer_products():
            packed, scales, zero_points = _int4_blocks(weight)
            inputs = [
                node.inputs[0],
                self.store(f"{name}.int4", packed),
                self.store(f"{name}.scale", scales),
                self.store(f"{name}.zero", zero_points),
            ]
            attributes = [
                ir.AttrInt64("K", weight.shape[0]),
                ir.AttrInt64("N", weight.shape[1]),
                ir.AttrInt64("bits", 4),
                ir.AttrInt64("block_size", INT4_BLOCK),
                ir.AttrInt64("accuracy_level", 4),  # int8 activations; the default is fp32
            ]
            product = self.insert(node, "MatMulNBits", inputs, attributes, MICROSOFT)
            self._finish(node, product)

    # --- pieces ---

    def _head(self) -> ir.Node:
        node = self.output(names.LOGITS).producer()
        assert node is not None
        return node

    def _layer_products(self) -> Iterator[tuple[ir.Node, str | None, NDArray[np.float32]]]:
        """Yield the products of the layers, each with its weight's name and values."""
        head = self._head()
        for node in self.nodes("MatMul"):
            weight = node.inputs[1]
            if node is not head and weight is not None:
                yield node, weight.name, constant(weight)

    def _quantize_lookup(self, lookup: ir.Node, matrix: ir.Value, scales: ir.Value) -> None:
        ids = lookup.inputs[1]
        rows = self.insert(lookup, "Gather", [matrix, ids])
        floats = self.insert(lookup, "Cast", [rows], [ir.AttrInt64("to", ir.DataType.FLOAT.value)])
        picked = self.insert(lookup, "Gather", [scales, ids])
        last = self.store("quantized.last_axis", np.array([-1], dtype=np.int64))
        scale = self.insert(lookup, "Unsqueeze", [picked, last])
        ir.convenience.replace_all_uses_with(
            lookup.outputs[0], self.insert(lookup, "Mul", [floats, scale])
        )
        self.graph.remove(lookup, safe=True)

    def _quantize_product(
        self, node: ir.Node, matrix: ir.Value, scales: ir.Value, *, transposed: bool
    ) -> None:
        scaled = self._quantize_rows(node, node.inputs[0])
        zero = self.store("quantized.zero_point", np.array(_ZERO_POINT, dtype=np.uint8))
        if transposed:  # QGemm reads a transposed matrix, but takes two dimensions
            flat = self.store("quantized.flat", np.array([-1, self.shape.width], dtype=np.int64))
            none = self.store("quantized.zeros", np.zeros(self.shape.vocab_size, dtype=np.int8))
            values = self.insert(node, "Reshape", [scaled.values, flat])
            product = self.insert(
                node,
                "QGemm",
                [values, scaled.step, zero, matrix, scales, none],
                [ir.AttrInt64("transB", 1)],
                MICROSOFT,
            )
            tail = self.store(
                "quantized.vocabulary", np.array([self.shape.vocab_size], dtype=np.int64)
            )
            leading = [ir.AttrInt64("end", -1)]
            dims = self.insert(node, "Shape", [node.inputs[0]], leading)
            target = self.insert(node, "Concat", [dims, tail], [ir.AttrInt64("axis", 0)])
            product = self.insert(node, "Reshape", [product, target])
        else:
            product = self.insert(
                node,
                "MatMulIntegerToFloat",
                [scaled.values, matrix, scaled.step, scales, zero],
                domain=MICROSOFT,
            )
        result = self.insert(node, "Mul", [product, scaled.largest])
        self._finish(node, result)

    def _quantize_rows(self, before: ir.Node, source: ir.Value | None) -> _Scaled:
        """Values = round(x * (127 / max |x|)) + 128, the maximum being that of the row.

        A row of zeros has a maximum of zero; whatever finite values its infinite factor leaves,
        the product is then multiplied by that zero.
        """
        last = self.store("quantized.last_axis", np.array([-1], dtype=np.int64))
        step = self.store("quantized.step", np.array(1 / 127, dtype=np.float32))
        most = self.store("quantized.largest", np.array(127, dtype=np.float32))
        one = self.store("quantized.one", np.array(1, dtype=np.float32))
        zero = self.store("quantized.zero_point", np.array(_ZERO_POINT, dtype=np.uint8))
        largest = self.insert(before, "ReduceMax", [self.insert(before, "Abs", [source]), last])
        factor = self.insert(before, "Div", [most, largest])
        scaled = self.insert(before, "Mul", [source, factor])
        values = self.insert(before, "QuantizeLinear", [scaled, one, zero])
        return _Scaled(values, step, largest)

    def _store_rows(self, name: str, matrix: NDArray[np.float32]) -> tuple[ir.Value, ir.Value]:
        scales = _scales(matrix, axis=1)
        stored = np.rint(matrix / scales).astype(np.int8)
        return self.store(f"{name}.int8", stored), self.store(f"{name}.scale", scales[:, 0])

    def _finish(self, node: ir.Node, result: ir.Value) -> None:
        self.replace(node.outputs[0], result)
        self.graph.remove(node, safe=True)
        self.products += 1


def _scales(matrix: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    largest = np.abs(matrix).max(axis=axis, keepdims=True)
    return np.maximum(largest / 127, 1e-30).astype(np.float32)


def _int4_blocks(
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Asymmetric 4-bit blocks in MatMulNBits' layout.

    Args:
        weight: Shape (inputs, outputs); inputs a multiple of the block.

    Returns:
        Packed values (outputs, blocks, block / 2), scales (outputs × blocks), packed zero points.
    """
    inputs, outputs = weight.shape
    if inputs % INT4_BLOCK:
        raise ExportError(f"int4 needs widths that are multiples of {INT4_BLOCK}, not {inputs}")
    blocks = weight.T.reshape(outputs, inputs // INT4_BLOCK, INT4_BLOCK)
    scales, zeros = _best_range(blocks)
    values = np.clip(np.rint(blocks / scales + zeros), 0, 15).astype(np.uint8)
    packed = values[..., 0::2] | (values[..., 1::2] << np.uint8(4))
    points = zeros[..., 0].astype(np.uint8)
    if points.shape[1] % 2:
        points = np.pad(points, ((0, 0), (0, 1)))
    packed_points = points[:, 0::2] | (points[:, 1::2] << np.uint8(4))
    return packed, scales.reshape(outputs, -1), packed_points


def _best_range(
    blocks: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and zero point of every block: the shrunken range with the least squared error."""
    low = np.minimum(blocks.min(axis=-1, keepdims=True), 0)
    high = np.maximum(blocks.max(axis=-1, keepdims=True), 0)
    best_error = np.full_like(low, np.inf)
    best_scale = np.ones_like(low)
    best_zero = np.zeros_like(low)
    for shrink in np.linspace(1.0, 0.7, 7, dtype=np.float32):
        scale = np.maximum((high - low) * shrink / 15, 1e-30).astype(np.float32)
        zero = np.clip(np.rint(-low * shrink / scale), 0, 15)
        restored = (np.clip(np.rint(blocks / scale + zero), 0, 15) - zero) * scale
        error = np.square(restored - blocks).sum(axis=-1, keepdims=True)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scale = np.where(better, scale, best_scale)
        best_zero = np.where(better, zero, best_zero)
    return best_scale, best_zero


def _to_half(model: ir.Model, kind: ir.DataType) -> None:
    """Weights, activations and cache in 16 bits; what feeds the logits' choice stays fp32."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        array = tensor.numpy()
        with np.errstate(over="ignore"):
            halved = array.astype(kind.numpy())
        if not np.isfinite(halved).all():
            raise ExportError(f"the weight {value.name} does not fit {kind.name.lower()}")
        value.const_value = ir.tensor(halved, name=value.name)
        value.type = ir.TensorType(kind)
    caches = [*graph.inputs, *graph.outputs]
    for value in caches:
        if value.name is not None and value.name.startswith(("past.", "present.")):
            value.type = ir.TensorType(kind)
    editor = GraphEditor(graph)
    logits = editor.output(names.LOGITS)
    cast = ir.Node("", "Cast", [None], [ir.AttrInt64("to", ir.DataType.FLOAT.value)])
    producer = logits.producer()
    assert producer is not None
    graph.insert_after(producer, cast)
    editor.replace(logits, cast.outputs[0])
    cast.replace_input_with(0, logits)
    logits.type = ir.TensorType(kind)
