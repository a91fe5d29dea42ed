"""Optimum's plain graph to the fused graph of the bundle.

Every rewrite looks for a structure, not for a name: the merged biases and the numbered nodes of
the exporter may change. Every rewrite is counted against what the model's shape demands, and one
that did not happen fails the export with its name.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from gpt2ja_export.add_candidates import add_candidates
from gpt2ja_export.graph_editor import (
    MICROSOFT,
    GraphEditor,
    ancestor,
    constant,
    only_consumer,
    producer,
    scalar,
)
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from gpt2ja_onnx.bundle.manifest import Device, ModelShape

_GELU_CUBIC = 0.044715  # the tanh form of GELU: 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))


def fuse(model: ir.Model, shape: ModelShape, device: Device = "cpu") -> dict[str, int]:
    """Rewrite Optimum's graph `model` in place to the fused graph of `gpt2ja_onnx.bundle.names`.

    Args:
        model: As `gpt2ja_export.optimum_export.export_plain` writes it, in fp32.
        shape: Sizes of the model; they say how often each rewrite must happen.
        device: What the graph is for. One for cuda has only nodes that the CUDA provider runs
            and that a captured graph replays, and tells by sums whether its logits are finite.

    Returns:
        How often each rewrite was made.

    Raises:
        ExportError: A rewrite did not happen as often as it must.
    """
    common.IdentityEliminationPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    fusion = _Fusion(model, shape, device)
    fusion.run()
    common.RemoveUnusedNodesPass()(model)
    common.TopologicalSortPass()(model)
    for value in [value for value in model.graph.inputs if not value.uses()]:
        model.graph.inputs.remove(value)
    model.opset_imports[MICROSOFT] = 1
    return dict(fusion.counts)


class _Fusion(GraphEditor):
    """One graph being rewritten."""

    def __init__(self, model: ir.Model, shape: ModelShape, device: Device) -> None:
        super().__init__(model.graph)
        self.shape = shape
        self.device = device
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        layers = self.shape.layers
        self._add_inputs()
        self._attach_linears()
        self._expect("linear", 4 * layers)
        for layer in range(layers):
            self._fuse_attention(layer)
        self._expect("attention", layers)
        self._fuse_gelus()
        self._expect("fast_gelu", layers)
        self._flatten_embedding()
        self._expect("embedding", 1)
        self._select_positions()
        self._expect("positions", 1)
        self._expect("norm", 2 * layers + 1, len(self.nodes("LayerNormalization")))
        if self.device == "cuda":  # on the CPU the sums and the norm are faster by themselves
            self._fuse_skip_norms()
            self._expect("skip_norm", 2 * layers + 1)
        self._attach_head()
        self._expect("head", 1)
        add_candidates(self.graph, self.shape, self.device)
        self.counts["candidates"] += 1
        if self.device == "cuda":
            self._add_sums()

    def _expect(self, name: str, count: int, found: int | None = None) -> None:
        if found is None:
            found = self.counts[name]
        if found != count:
            raise ExportError(
                f"{name!r} was found {found} times, expected {count}: the exported graph has a "
                "structure that this release does not know"
            )

    # --- the rewrites, in the order in which they run ---

    def _add_inputs(self) -> None:
        def add(name: str, kind: ir.DataType, *dims: str) -> ir.Value:
            value = ir.val(name, kind, dims)
            self.graph.inputs.append(value)
            return value

        self.seqlens = add(names.SEQLENS_K, ir.DataType.INT32, "rows")
        self.total = add(names.TOTAL_SEQUENCE_LENGTH, ir.DataType.INT32)
        self.positions = add(names.LOGIT_POSITIONS, ir.DataType.INT64, "rows", "positions")
        for name in (names.INPUT_IDS, names.POSITION_IDS):
            self.input(name).shape = ir.Shape(["rows", "new"])

    def _attach_linears(self) -> None:
        """Reshape → Gemm → Reshape, as GPT-2's Conv1D exports, to MatMul → Add."""
        for gemm in self.nodes("Gemm"):
            flat, restored = (
                producer(gemm.inputs[0], "Reshape"),
                only_consumer(gemm.outputs[0], "Reshape"),
            )
            plain = all(
                gemm.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta")
            ) and not any(gemm.attributes.get_int(name, 0) for name in ("transA", "transB"))
            if flat is None or restored is None or not plain:
                continue
            product = self.insert(restored, "MatMul", [flat.inputs[0], gemm.inputs[1]])
            biased = self.insert(restored, "Add", [product, gemm.inputs[2]])
            self.replace(restored.outputs[0], biased)
            self.counts["linear"] += 1

    def _fuse_attention(self, layer: int) -> None:
        """Everything between the packed QKV product and the output product to one node."""
        key, value = (self.output(f"present.{layer}.{part}") for part in ("key", "value"))
        joined = producer(key, "Concat")  # past and new keys
        packed = ancestor(joined.inputs[1], "Split") if joined is not None else None
        result = self._attention_result(value)
        if packed is None or result is None:
            return
        past = [self._cache_input(layer, part) for part in names.CACHE_PARTS]
        node = ir.Node(
            MICROSOFT,
            "GroupQueryAttention",
            [packed.inputs[0], None, None, *past, self.seqlens, self.total],
            [
                ir.AttrInt64("num_heads", self.shape.heads),
                ir.AttrInt64("kv_num_heads", self.shape.heads),
            ],
            num_outputs=3,
        )
        self.graph.insert_before(result, node)
        self.replace(result.outputs[0], node.outputs[0])
        for old, new, cached in zip((key, value), node.outputs[1:], past, strict=True):
            new.type, new.shape = cached.type, cached.shape
            self.replace(old, new)
        self.counts["attention"] += 1

    def _fuse_gelus(self) -> None:
        """The tanh form of GELU with the bias before it to FastGelu."""
        for tanh in self.nodes("Tanh"):
            shifted = only_consumer(tanh.outputs[0], "Add")  # 1 + tanh(…)
            last = only_consumer(shifted.outputs[0], "Mul") if shifted is not None else None
            power = ancestor(tanh.inputs[0], "Pow")
            if power is None or last is None or not self._has_cubic(power):
                continue
            biased = producer(power.inputs[0], "Add")
            inputs = [power.inputs[0]] if biased is None else [*_product_and_bias(biased)]
            self.replace(last.outputs[0], self.insert(last, "FastGelu", inputs, (), MICROSOFT))
            self.counts["fast_gelu"] += 1

    def _fuse_skip_norms(self) -> None:
        """Add → LayerNormalization, with the bias of the product before it, to one node."""
        for norm in self.nodes("LayerNormalization"):
            total = producer(norm.inputs[0], "Add")
            if total is None:
                continue
            branches = [*total.inputs]
            bias: list[ir.Value | None] = []
            for index, branch in enumerate(branches):
                biased = producer(branch, "Add")
                if biased is not None and any(v and v.is_initializer() for v in biased.inputs):
                    product, found = _product_and_bias(biased)
                    branches, bias = [product, branches[1 - index]], [found]
                    break
            node = ir.Node(
                MICROSOFT,
                "SkipLayerNormalization",
                [*branches, norm.inputs[1], norm.inputs[2], *bias],
                [ir.AttrFloat32("epsilon", norm.attributes.get_float("epsilon", 1e-5))],
                num_outputs=4,
            )
            normed, mean, deviation, summed = node.outputs
            name = f"skip_norm.{self.counts['skip_norm']}"
            normed.name, mean.name, deviation.name, summed.name = name, "", "", f"{name}.sum"
            self.graph.insert_before(norm, node)
            self.replace(norm.outputs[0], normed)
            self.replace(total.outputs[0], summed)
            self.counts["skip_norm"] += 1

    def _flatten_embedding(self) -> None:
        """Look ids up in the shape in which they come, without a detour over a reshape."""
        for gather in self.nodes("Gather"):
            detour = producer(gather.inputs[1], "Reshape")
            if detour is not None and detour.inputs[0] is self.input(names.INPUT_IDS):
                looked_up = self.insert(gather, "Gather", [gather.inputs[0], detour.inputs[0]])
                self.replace(gather.outputs[0], looked_up)
                self.counts["embedding"] += 1
        for cast in self.nodes("Cast"):  # of the looked up positions, from fp32 to fp32
            source = producer(cast.inputs[0], "Gather")
            if source is not None and source.inputs[1] is self.input(names.POSITION_IDS):
                self.replace(cast.outputs[0], source.outputs[0])

    def _select_positions(self) -> None:
        """Logits only where they are asked for.

        The gather stands right behind the last attention: the rest of the last layer, the last
        norm and the head then run on the chosen positions alone.
        """
        order = {id(node): index for index, node in enumerate(self.graph)}
        attention = self.nodes("GroupQueryAttention")[-1]
        residual = self._residual_beside(attention.outputs[0])
        if residual is None:
            return
        gather = self._gather_flat if self.device == "cuda" else self._gather_by_row
        for value in (attention.outputs[0], residual):
            users = [
                usage for usage in value.uses() if order[id(usage.node)] > order[id(attention)]
            ]
            gathered = gather(users[0].node, value)
            for node, index in users:
                node.replace_input_with(index, gathered)
        self.counts["positions"] += 1

    def _gather_by_row(self, before: ir.Node, value: ir.Value) -> ir.Value:
        axes = self.store("gather_axes", np.array([2], dtype=np.int64))
        indices = self.insert(before, "Unsqueeze", [self.positions, axes])
        batched = [ir.AttrInt64("batch_dims", 1)]
        return self.insert(before, "GatherND", [value, indices], batched)

    def _gather_flat(self, before: ir.Node, value: ir.Value) -> ir.Value:
        """The same from the tokens of all rows in one line.

        CUDA's GatherND copies sizes from the stack of its caller, which a captured graph would
        read again when they are long gone (onnxruntime's pull request 32120).
        """
        dims = self.store("gather_dims", np.array([-1, self.shape.width], dtype=np.int64))
        flat = self.insert(before, "Reshape", [value, dims])
        return self.insert(before, "Gather", [flat, self.positions])

    def _attach_head(self) -> None:
        """The head on the last norm's own shape, over the embedding as it is stored if tied."""
        logits = self.output(names.LOGITS)
        head = producer(logits, "MatMul")
        if head is None:
            return
        flat = producer(head.inputs[0], "Reshape")
        source = head.inputs[0] if flat is None else flat.inputs[0]
        embedding = self._tied_embedding(head)
        if embedding is None:
            product = self.insert(head, "MatMul", [source, head.inputs[1]])
        else:
            product = self.insert(
                head,
                "FusedMatMul",
                [source, embedding],
                [ir.AttrInt64("transB", 1)],
                MICROSOFT,
            )
        product.shape = ir.Shape(["rows", "positions", self.shape.vocab_size])
        self.replace(logits, product)
        self.counts["head"] += 1

    def _add_sums(self) -> None:
        """The sum of each position's logits: as finite as they are, and cheaper to read."""
        axes = self.store("sum_axes", np.array([2], dtype=np.int64))
        flat = [ir.AttrInt64("keepdims", 0)]
        output = self.append("ReduceSum", [self.output(names.LOGITS), axes], flat)
        output.name, output.type = names.LOGIT_SUMS, ir.TensorType(ir.DataType.FLOAT)
        output.shape = ir.Shape(["rows", "positions"])
        self.graph.outputs.append(output)
        self.counts["sums"] += 1

    # --- looking around ---

    def _cache_input(self, layer: int, part: names.CachePart) -> ir.Value:
        value = self.input(f"past_key_values.{layer}.{part}")
        value.name = names.past_name(layer, part)
        value.shape = ir.Shape(["rows", self.shape.heads, "capacity", self.shape.head_size])
        return value

    def _attention_result(self, value: ir.Value) -> ir.Node | None:
        """The Reshape behind softmax × `value`, which joins the heads again."""
        product = next((node for node in value.consumers() if node.op_type == "MatMul"), None)
        transposed = only_consumer(product.outputs[0], "Transpose") if product else None
        return only_consumer(transposed.outputs[0], "Reshape") if transposed else None

    def _tied_embedding(self, head: ir.Node) -> ir.Value | None:
        """The embedding that the head is the transpose of, if it is.

        Optimum stores a tied head once only where accelerate is installed, so a head of its own
        is compared.
        """
        transpose = producer(head.inputs[1], "Transpose")
        if transpose is not None:
            return transpose.inputs[0]
        lookup = next(n for n in self.nodes("Gather") if n.inputs[1] is self.input(names.INPUT_IDS))
        same = np.array_equal(constant(lookup.inputs[0]).T, constant(head.inputs[1]))
        return lookup.inputs[0] if same else None

    def _residual_beside(self, value: ir.Value) -> ir.Value | None:
        """What the product of `value`, with its bias, is added to."""
        for total in self.nodes("Add"):
            for branch, other in zip(total.inputs, reversed(total.inputs), strict=True):
                biased = producer(branch, "Add")
                product = producer(biased.inputs[0], "MatMul") if biased is not None else None
                if product is not None and product.inputs[0] is value:
                    return other
        return None

    def _has_cubic(self, power: ir.Node) -> bool:
        scaled = only_consumer(power.outputs[0], "Mul")
        factors = [scalar(value) for value in scaled.inputs] if scaled is not None else []
        return any(factor is not None and abs(factor - _GELU_CUBIC) < 1e-6 for factor in factors)


def _product_and_bias(add: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    first, second = add.inputs
    return (second, first) if first is not None and first.is_initializer() else (first, second)
