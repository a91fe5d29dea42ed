"""Small edits of an onnx-ir graph that every rewrite is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MICROSOFT = "com.microsoft"


class GraphEditor:
    """A graph being rewritten."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph

    def nodes(self, op_type: str) -> list[ir.Node]:
        """The nodes of one operator, in their order."""
        return [node for node in self.graph if node.op_type == op_type]

    def input(self, name: str) -> ir.Value:
        """The graph's input of that name."""
        return next(value for value in self.graph.inputs if value.name == name)

    def output(self, name: str) -> ir.Value:
        """The graph's output of that name."""
        return next(value for value in self.graph.outputs if value.name == name)

    def insert(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Sequence[ir.Attr] = (),
        domain: str = "",
    ) -> ir.Value:
        """Insert a node of one output before another node."""
        node = ir.Node(domain, op_type, inputs, attributes)
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def append(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Sequence[ir.Attr] = ()
    ) -> ir.Value:
        """Add a node of one output at the end."""
        node = ir.Node("", op_type, inputs, attributes)
        self.graph.append(node)
        return node.outputs[0]

    def store(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Add an initializer, or return the one that has the name already."""
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
        value = ir.Value(name=name, const_value=tensor)
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
        self.graph.register_initializer(value)
        return value

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let `new` stand where `old` stood; an output keeps its place, name, type and shape."""
        if old.is_graph_output():
            name, old.name = old.name, f"unused_{old.name}"
            new.name, new.type, new.shape = name, new.type or old.type, new.shape or old.shape
            self.graph.outputs[self.graph.outputs.index(old)] = new
        ir.convenience.replace_all_uses_with(old, new)


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that computes `value`, if it is an `op_type`."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def only_consumer(value: ir.Value, op_type: str) -> ir.Node | None:
    """The one node that uses `value`, nodes that ask for its shape aside, if an `op_type`."""
    consumers = [node for node in value.consumers() if node.op_type != "Shape"]
    return consumers[0] if len(consumers) == 1 and consumers[0].op_type == op_type else None


def ancestor(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The nearest `op_type` above `value`, breadth first."""
    queue, seen = [value], set[int]()
    while queue:
        current = queue.pop(0)
        node = current.producer() if current is not None else None
        if node is None or id(node) in seen:
            continue
        if node.op_type == op_type:
            return node
        seen.add(id(node))
        queue += node.inputs
    return None


def scalar(value: ir.Value | None) -> float | None:
    """The number that `value` always is, or None."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(()))


def constant(value: ir.Value | None) -> NDArray[Any]:
    """The array of an initializer."""
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()
