"""The nodes of a quantised graph as calls of functions that native operators can stand in for.

Each group of nodes that a native operator computes becomes a call of a model-local function of
the operator's name, whose body is those nodes. onnxruntime runs the operator where the runtime has
registered it, and the body everywhere else: one file serves both.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common

from gpt2ja_export.graph_editor import GraphEditor, only_consumer, producer
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpt2ja_export.calibration import Place, Product
    from gpt2ja_export.choose_bits import Form
    from gpt2ja_onnx.bundle.manifest import ModelShape


def outline_operators(
    model: ir.Model, shape: ModelShape, forms: Mapping[Place, Form]
) -> dict[str, int]:
    """Replace the nodes of the quantised graph `model` by calls of functions, in place.

    Args:
        model: A fused graph with an int8 cache, and weights in int8 or int4.
        shape: Of the model; it says how many calls there must be.
        forms: Of each product.

    Returns:
        How often each function is called.

    Raises:
        ExportError: A function is not called as often as it must be, or its calls differ.
    """
    outliner = _Outliner(model, shape)
    outliner.run()
    layers = shape.layers
    of_two_bytes = len(shape.cache_16_bits)
    expected = {"Embed": 1, "NormHead": 1, "Candidates": 1}
    expected |= {"Attention": layers - of_two_bytes, "AttentionKV16": of_two_bytes}
    expected |= Counter(_LINEARS[name] + _SUFFIXES[form] for (_, name), form in forms.items())
    expected = {name: count for name, count in expected.items() if count}
    if outliner.counts != expected:
        raise ExportError(f"operators {dict(outliner.counts)} were found, expected {expected}")
    model.opset_imports[names.OPERATOR_DOMAIN] = 1
    common.RemoveUnusedNodesPass()(model)
    return expected


_LINEARS: dict[Product, str] = {
    "attn.c_attn": "NormLinear",
    "attn.c_proj": "LinearResidual",
    "mlp.c_fc": "NormLinearGelu",
    "mlp.c_proj": "LinearResidual",
}
_SUFFIXES: dict[Form, str] = {"int8": "", "int8_a16": "A16", "int4": "Int4"}


class _Outliner(GraphEditor):
    """One graph whose nodes are being grouped."""

    def __init__(self, model: ir.Model, shape: ModelShape) -> None:
        super().__init__(model.graph)
        self.model = model
        self.shape = shape
        self.counts: Counter[str] = Counter()
        self._signatures: dict[str, str] = {}

    def run(self) -> None:
        self._outline_candidates()
        self._outline_head()
        for node in self.nodes("MatMulIntegerToFloat"):
            _, matrix, _, scales, _ = node.inputs
            total, source, suffix = node, _quantised_source(node), ""
            pair = only_consumer(node.outputs[0], "Add")
            if pair is not None:  # the high byte's product before the low one's
                if pair.inputs[0] is not node.outputs[0]:
                    continue
                total, source, suffix = pair, _source_of_two_bytes(node), "A16"
            scaled = only_consumer(total.outputs[0], "Mul")
            self._outline_linear(source, [matrix, scales], scaled, suffix)
        for node in self.nodes("MatMulNBits"):
            source, *weights = node.inputs
            self._outline_linear(source, weights, node, "Int4")
        for node in self.nodes("GroupQueryAttention"):
            self._outline_attention(node)
        self._outline_embedding()

    # --- the groups: what they are given and what they give ---

    def _outline_candidates(self) -> None:
        outputs = [self.output(name) for name in (names.CANDIDATE_SCORES, names.CANDIDATE_IDS)]
        count = ir.AttrInt64("count", self.shape.candidates)
        self._outline("Candidates", [self.output(names.LOGITS)], outputs, [count])

    def _outline_head(self) -> None:
        for product in self.nodes("QGemm"):
            source = _quantised_source(producer(product.inputs[0], "Reshape"))
            norm = producer(source, "LayerNormalization")
            if norm is not None:
                _, _, _, matrix, scales, _ = product.inputs
                inputs = [*norm.inputs, matrix, scales]
                logits = self.output(names.LOGITS)
                self._outline("NormHead", inputs, [logits], [_epsilon(norm)])

    def _outline_linear(
        self,
        source: ir.Value | None,
        weights: Sequence[ir.Value | None],
        product: ir.Node | None,
        suffix: str,
    ) -> None:
        """`product` of `source` with the norm before it, if there is one, and what follows it."""
        if source is None or product is None:
            return
        norm = producer(source, "LayerNormalization")
        given = [source] if norm is None else [*norm.inputs]
        attributes = [] if norm is None else [_epsilon(norm)]
        sizes = (product.attributes.get(name) for name in ("K", "N"))  # of int4
        attributes += [size for size in sizes if size is not None]
        gelu = only_consumer(product.outputs[0], "FastGelu")
        biased = gelu or only_consumer(product.outputs[0], "Add")
        if biased is None:
            return
        inputs = [*given, *weights, biased.inputs[1]]
        if norm is not None:
            name = "NormLinear" if gelu is None else "NormLinearGelu"
            self._outline(f"{name}{suffix}", inputs, [*biased.outputs], attributes)
            return
        total = only_consumer(biased.outputs[0], "Add")
        if total is not None:
            residual = next(value for value in total.inputs if value is not biased.outputs[0])
            total.replace_input_with(0, biased.outputs[0])  # one order for all
            total.replace_input_with(1, residual)
            self._outline(
                f"LinearResidual{suffix}", [*inputs, residual], [*total.outputs], attributes
            )

    def _outline_attention(self, node: ir.Node) -> None:
        given = [value for value in node.inputs if value is not None]
        attributes = [
            ir.AttrInt64("num_heads", self.shape.heads),
            ir.AttrInt64("head_size", self.shape.head_size),
        ]
        name, outputs = "Attention", [*node.outputs]
        source = _source(node, "Reshape", "Concat", "Concat", "Split", "Reshape")
        if source is not None:  # queries, keys and values before they are cut to bytes
            name, given[0] = "AttentionKV16", source
            for kind in ("Reshape", "Mul", "ReduceSum", "Reshape"):
                last = only_consumer(outputs[0], kind)
                if last is None:
                    return
                outputs[0] = last.outputs[0]
        self._outline(name, given, outputs, attributes)

    def _outline_embedding(self) -> None:
        ids, positions = (self.input(name) for name in (names.INPUT_IDS, names.POSITION_IDS))
        of_tokens = [node for node in self.nodes("Gather") if node.inputs[1] is ids]
        of_positions = [node for node in self.nodes("Gather") if node.inputs[1] is positions]
        if len(of_tokens) == 2 and len(of_positions) == 1:
            total = only_consumer(of_positions[0].outputs[0], "Add")
            inputs = [ids, positions, *(n.inputs[0] for n in [*of_tokens, *of_positions])]
            if total is not None:
                self._outline("Embed", inputs, [*total.outputs], [])

    # --- one group to one call ---

    def _outline(
        self,
        name: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[ir.Value],
        attributes: Sequence[ir.Attr],
    ) -> None:
        """Let a call of function `name` stand for the nodes between `inputs` and `outputs`."""
        nodes = self._between(inputs, outputs)
        declared_names = {item.name for item in attributes}
        body, signature = _body(nodes, inputs, outputs, declared_names, self.model.opset_imports)
        if signature != self._signatures.setdefault(name, signature):
            raise ExportError(f"the calls of operator {name} would differ")
        domain = names.OPERATOR_DOMAIN
        declared = [ir.Attr(item.name, item.type, None) for item in attributes]
        function = ir.Function(domain, name, graph=body, attributes=declared)
        self.model.functions.setdefault(function.identifier(), function)
        call = ir.Node(domain, name, inputs, attributes, num_outputs=len(outputs))
        self.graph.insert_before(nodes[-1], call)
        for old, new in zip(outputs, call.outputs, strict=True):
            new.type, new.shape = old.type, old.shape
            self.replace(old, new)
        self.counts[name] += 1

    def _between(
        self, inputs: Sequence[ir.Value | None], outputs: Sequence[ir.Value]
    ) -> list[ir.Node]:
        found = set[ir.Node]()
        queue = [*outputs]
        while queue:
            node = queue.pop().producer()
            if node is not None and node not in found:
                found.add(node)
                queue += [value for value in node.inputs if value and value not in inputs]
        return [node for node in self.graph if node in found]


def _body(
    nodes: Sequence[ir.Node],
    inputs: Sequence[ir.Value | None],
    outputs: Sequence[ir.Value],
    attributes: set[str],
    opset_imports: dict[str, int],
) -> tuple[ir.Graph, str]:
    """Nodes copied to a function's body, and a text that is the same for equal bodies.

    Attributes of the nodes that are among the function's `attributes` take the call's values.
    """
    copies: dict[ir.Value, ir.Value] = {}
    parameters = [ir.Value(name=f"input_{index}") for index in range(len(inputs))]
    for value, parameter in zip(inputs, parameters, strict=True):
        assert value is not None
        copies[value] = parameter
    if len(copies) != len(inputs):
        raise ExportError("an operator is given one value twice")
    body: list[ir.Node] = []
    signature: list[str] = []

    def copied(value: ir.Value | None) -> ir.Value | None:
        if value is not None and value not in copies:
            if value.const_value is None:
                raise ExportError(f"an operator would read {value.name} beside its inputs")
            constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", value.const_value)])
            constant.outputs[0].name = f"constant_{len(body)}"
            body.append(constant)
            signature.append(f"{constant.outputs[0].name} = {value.const_value.numpy().tolist()}")
            copies[value] = constant.outputs[0]
        return None if value is None else copies[value]

    for node in nodes:
        given = [copied(value) for value in node.inputs]
        own = [
            ir.RefAttr(item.name, item.name, item.type) if item.name in attributes else item
            for item in node.attributes.values()
        ]
        copy = ir.Node(node.domain, node.op_type, given, own, num_outputs=len(node.outputs))
        for index, (old, new) in enumerate(zip(node.outputs, copy.outputs, strict=True)):
            new.name = f"value_{len(body)}_{index}"
            copies[old] = new
        body.append(copy)
        signature.append(f"{node.op_type} {[*map(str, own)]} {[v and v.name for v in given]}")
    results = [copies[value] for value in outputs]
    imports = dict(opset_imports)
    return ir.Graph(parameters, results, nodes=body, opset_imports=imports), "\n".join(signature)


def _quantised_source(node: ir.Node | None) -> ir.Value | None:
    """What was quantised to the first input of `node`."""
    return _source(node, "QuantizeLinear", "Mul")


def _source_of_two_bytes(node: ir.Node) -> ir.Value | None:
    return _source(node, "QuantizeLinear", "Round", "Div", "Round", "Mul")


def _source(node: ir.Node | None, *kinds: str) -> ir.Value | None:
    """The first input at the end of a chain of first inputs."""
    for kind in kinds:
        node = producer(node.inputs[0], kind) if node is not None else None
    return node.inputs[0] if node is not None else None


def _epsilon(norm: ir.Node) -> ir.Attr:
    return ir.AttrFloat32("epsilon", norm.attributes.get_float("epsilon", 1e-5))
