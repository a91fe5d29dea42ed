"""The fused fp32 graph to the other precisions: int8, int4, fp16 and bf16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from gpt2ja_export.graph_editor import MICROSOFT, GraphEditor, constant
from gpt2ja_export.rounding import INT4_BLOCK, LOW_STEPS, int8_columns, int8_rows
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from gpt2ja_export.calibration import Place
    from gpt2ja_export.choose_bits import Bits
    from gpt2ja_export.rounding import Int4
    from gpt2ja_onnx.bundle.manifest import ModelShape, Precision

_ZERO_POINT = 128  # activations are uint8 around 128: the int8 × int8 kernel is many times slower


def convert_precision(
    model: ir.Model,
    shape: ModelShape,
    precision: Precision,
    bits: Bits | None,
    grams: Mapping[Place, Tensor],
) -> dict[str, Any]:
    """Rewrite the fused fp32 graph `model` in place to `precision`.

    Args:
        model: The graph.
        shape: Its shape.
        precision: What to convert to.
        bits: What int8 and int4 take more bits for.
        grams: From `input_grams`, for int8 and int4.

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
    assert bits is not None
    quantizer = _Quantizer(model, shape)
    quantizer.quantize_head()
    quantizer.quantize_layers(bits, grams)
    method: dict[str, Any]
    if precision == "int8":
        method = {"weights": "int8 per output column, by GPTQ", "activations": "uint8 per row"}
    else:
        method = {
            "weights": f"int4 in blocks of {INT4_BLOCK}, by GPTQ",
            "weights_8_bits": bits.places("int8_a16"),
            "activations": "int8 in blocks",
        }
    method |= {
        "activations_16_bits": bits.places("int8_a16"),
        "embedding_and_head": "int8 per row",
    }
    quantizer.check()
    return method | {"products": quantizer.products}


@dataclass(frozen=True, slots=True)
class _Scaled:
    """A quantised activation: Σ (values - 128) × step × the largest absolute value of each row."""

    parts: list[tuple[ir.Value, ir.Value]]  # values and steps
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

    def quantize_layers(self, bits: Bits, grams: Mapping[Place, Tensor]) -> None:
        """The layers' products, each in its form."""
        nodes = [node for node in self.nodes("MatMul") if node is not self._head()]
        for node, (place, form) in zip(nodes, bits.forms.items(), strict=True):
            weight = node.inputs[1]
            assert weight is not None
            if form == "int4":
                self._quantize_int4(node, weight.name, bits.int4[place])
                continue
            # A row's scale is its own and integer sums are exact, so a row's result does not
            # depend on the rest of the batch.
            matrix, scales = int8_columns(constant(weight), grams[place])
            stored = (
                self.store(f"{weight.name}.int8", matrix),
                self.store(f"{weight.name}.scale", scales),
            )
            self._quantize_product(node, *stored, transposed=False, wide=form == "int8_a16")

    def _quantize_int4(self, node: ir.Node, name: str | None, weight: Int4) -> None:
        outputs, blocks, _ = weight.packed.shape
        inputs = [
            node.inputs[0],
            self.store(f"{name}.int4", weight.packed),
            self.store(f"{name}.scale", weight.scales),
            self.store(f"{name}.zero", weight.zero_points),
        ]
        attributes = [
            ir.AttrInt64("K", blocks * INT4_BLOCK),
            ir.AttrInt64("N", outputs),
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
