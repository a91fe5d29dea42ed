"""The fused fp32 graph to the other precisions: int8, int4, fp16 and bf16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from gpt2ja_export.calibration import PRODUCTS
from gpt2ja_export.graph_editor import MICROSOFT, GraphEditor, constant
from gpt2ja_export.rounding import INT4_BLOCK, LOW_STEPS, int4_blocks, int8_columns, int8_rows
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gpt2ja_export.calibration import Calibration, Product
    from gpt2ja_onnx.bundle.manifest import ModelShape, Precision

_ZERO_POINT = 128  # activations are uint8 around 128: the int8 × int8 kernel is many times slower


def convert_precision(
    model: ir.Model, shape: ModelShape, precision: Precision, calibration: Calibration | None
) -> dict[str, Any]:
    """Rewrite the fused fp32 graph `model` in place to `precision`.

    Args:
        model: The graph.
        shape: Its shape.
        precision: What to convert to.
        calibration: Of its products, for int8 and int4.

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
    assert calibration is not None
    quantizer = _Quantizer(model, shape, calibration)
    quantizer.quantize_head()
    if precision == "int8":
        quantizer.quantize_layers_int8()
        method = {
            "weights": "int8 per output column, by GPTQ",
            "activations": "uint8 per row",
            "activations_16_bits": [f"h.{layer}.{name}" for layer, name in quantizer.wide],
        }
    else:
        quantizer.quantize_layers_int4()
        method = {
            "weights": f"int4 in blocks of {INT4_BLOCK}, by GPTQ",
            "activations": "int8 in blocks",
        }
    method["embedding_and_head"] = "int8 per row"
    quantizer.check()
    return method | {"products": quantizer.products}


@dataclass(frozen=True, slots=True)
class _Scaled:
    """A quantised activation: Σ (values - 128) × step × the largest absolute value of each row."""

    parts: list[tuple[ir.Value, ir.Value]]  # values and steps
    largest: ir.Value


class _Quantizer(GraphEditor):
    def __init__(self, model: ir.Model, shape: ModelShape, calibration: Calibration) -> None:
        super().__init__(model.graph)
        self.shape = shape
        self.calibration = calibration
        self.products = 0

    @property
    def wide(self) -> list[tuple[int, Product]]:
        """The products with activations of 16 bits, in the order of the graph."""
        return [place for place in self.calibration.grams if place in self.calibration.wide]

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
        """Weights int8 per output column, activations uint8, once or twice, with a scale a row.

        A row's scale is its own and integer sums are exact, so a row's result does not depend on
        the rest of the batch.
        """
        for node, place, name, weight in self._layer_products():
            matrix, scales = int8_columns(weight, self.calibration.grams[place])
            stored = self.store(f"{name}.int8", matrix), self.store(f"{name}.scale", scales)
            wide = place in self.calibration.wide
            self._quantize_product(node, *stored, transposed=False, wide=wide)

    def quantize_layers_int4(self) -> None:
        """Weights int4 in blocks along the input, each with its own scale and zero point."""
        for node, place, name, weight in self._layer_products():
            packed, scales, zero_points = int4_blocks(weight, self.calibration.grams[place])
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

    def _layer_products(
        self,
    ) -> Iterator[tuple[ir.Node, tuple[int, Product], str | None, NDArray[np.float32]]]:
        """Yield the products of the layers, each with its place, its weight's name and values."""
        nodes = [node for node in self.nodes("MatMul") if node is not self._head()]
        for index, node in enumerate(nodes):
            layer, number = divmod(index, len(PRODUCTS))
            weight = node.inputs[1]
            assert weight is not None
            yield node, (layer, PRODUCTS[number]), weight.name, constant(weight)

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
        self,
        node: ir.Node,
        matrix: ir.Value,
        scales: ir.Value,
        *,
        transposed: bool,
        wide: bool = False,
    ) -> None:
        scaled = self._quantize_rows(node, node.inputs[0], wide=wide)
        zero = self.store("quantized.zero_point", np.array(_ZERO_POINT, dtype=np.uint8))
        if transposed:  # QGemm reads a transposed matrix, but takes two dimensions
            flat = self.store("quantized.flat", np.array([-1, self.shape.width], dtype=np.int64))
            none = self.store("quantized.zeros", np.zeros(self.shape.vocab_size, dtype=np.int8))
            [(values, step)] = scaled.parts
            product = self.insert(
                node,
                "QGemm",
                [self.insert(node, "Reshape", [values, flat]), step, zero, matrix, scales, none],
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
            products = [
                self.insert(
                    node,
                    "MatMulIntegerToFloat",
                    [values, matrix, step, scales, zero],
                    domain=MICROSOFT,
                )
                for values, step in scaled.parts
            ]
            product = self.insert(node, "Add", products) if wide else products[0]
        result = self.insert(node, "Mul", [product, scaled.largest])
        self._finish(node, result)

    def _quantize_rows(self, before: ir.Node, source: ir.Value | None, *, wide: bool) -> _Scaled:
        """Values = round(x * (127 / max |x|)) + 128, the maximum being that of the row.

        With 16 bits, round(x * (32258 / max |x|)) = 254 × high + low, both as above.

        A row of zeros has a maximum of zero; whatever finite values its infinite factor leaves,
        the product is then multiplied by that zero.
        """
        last = self.store("quantized.last_axis", np.array([-1], dtype=np.int64))
        largest = self.insert(before, "ReduceMax", [self.insert(before, "Abs", [source]), last])
        most = 127 * LOW_STEPS if wide else 127
        step = self._number(f"step_{most}", 1 / most)
        factor = self.insert(before, "Div", [self._number(f"most_{most}", most), largest])
        scaled = self.insert(before, "Mul", [source, factor])
        if not wide:
            return _Scaled([(self._to_bytes(before, scaled), step)], largest)
        whole = self.insert(before, "Round", [scaled])
        steps = self._number("wide_steps", LOW_STEPS)
        high = self.insert(before, "Round", [self.insert(before, "Div", [whole, steps])])
        low = self.insert(before, "Sub", [whole, self.insert(before, "Mul", [high, steps])])
        parts = [
            (self._to_bytes(before, high), self._number("step_127", 1 / 127)),
            (self._to_bytes(before, low), step),
        ]
        return _Scaled(parts, largest)

    def _to_bytes(self, before: ir.Node, values: ir.Value) -> ir.Value:
        zero = self.store("quantized.zero_point", np.array(_ZERO_POINT, dtype=np.uint8))
        return self.insert(before, "QuantizeLinear", [values, self._number("one", 1), zero])

    def _number(self, name: str, value: float) -> ir.Value:
        return self.store(f"quantized.{name}", np.array(value, dtype=np.float32))

    def _store_rows(self, name: str, matrix: NDArray[np.float32]) -> tuple[ir.Value, ir.Value]:
        stored, scales = int8_rows(matrix)
        return self.store(f"{name}.int8", stored), self.store(f"{name}.scale", scales)

    def _finish(self, node: ir.Node, result: ir.Value) -> None:
        self.replace(node.outputs[0], result)
        self.graph.remove(node, safe=True)
        self.products += 1


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
