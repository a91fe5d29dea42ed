"""A model of one call of an operator, whose standard body is that of an exported bundle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from gpt2ja_kernels import load_kernels
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.device.cpu.features import int8_products_saturate
from gpt2ja_onnx.device.graph_file import session_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = Sequence[NDArray[Any]]

# The types of what each operator gives; every other operator gives floats.
_OUTPUTS = {
    "Candidates": (np.float32, np.int64),
    "Attention": (np.float32, np.int8, np.int8),
    "AttentionKV16": (np.float32, np.int8, np.int8),
}
# Which inputs change from call to call; the others are weights.
_CHANGING = {
    "Embed": (0, 1),
    "Attention": (0, 1, 2, 3, 4),
    "AttentionKV16": (0, 1, 2, 3, 4),
    "LinearResidual": (0, 4),
    "LinearResidualA16": (0, 4),
    "LinearResidualInt4": (0, 5),
}


class OneOperator:
    """A session of one call.

    Args:
        bundle: Whose graph has the operator's function.
        name: The operator.
        inputs: All that it is given, weights included; shapes may change from call to call.
        attributes: Of the call.
        threads: Of the session.
        native: Run the native operator, not the body.
        heads: How many, and how wide, put into an attention's body, which holds those of its
            bundle.
    """

    def __init__(
        self,
        bundle: Path,
        name: str,
        inputs: Arrays,
        attributes: dict[str, Any] | None = None,
        *,
        threads: int = 1,
        native: bool,
        heads: tuple[int, int] | None = None,
    ) -> None:
        model = onnx.load(bundle / names.MODEL_FILE, load_external_data=False)
        function = next(function for function in model.functions if function.name == name)
        if heads is not None:
            _set_heads(function, *heads)
        self._changing = _CHANGING.get(name, (0,))
        values = [f"input_{index}" for index in range(len(inputs))]
        outputs = [f"output_{index}" for index in range(len(_OUTPUTS.get(name, (0,))))]
        node = helper.make_node(
            name, values, outputs, domain=names.OPERATOR_DOMAIN, **(attributes or {})
        )
        graph = helper.make_graph(
            [node],
            name,
            [_described(values[index], inputs[index].dtype) for index in self._changing],
            [
                _described(output, dtype)
                for output, dtype in zip(outputs, _OUTPUTS.get(name, (np.float32,)), strict=True)
            ],
            [
                numpy_helper.from_array(array, values[index])
                for index, array in enumerate(inputs)
                if index not in self._changing
            ],
        )
        proto = helper.make_model(
            graph,
            functions=[function],
            opset_imports=model.opset_import,
            ir_version=model.ir_version,
        )
        options = session_options(threads)
        if native:
            kernels = load_kernels()
            assert not isinstance(kernels, str)
            options.register_custom_ops_library(str(kernels.path))
        elif int8_products_saturate():  # see CpuSession
            options.add_session_config_entry("session.x64quantprecision", "1")
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        self._session = ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        """What it gives for inputs, of which those that are weights are passed over."""
        feed = {f"input_{index}": inputs[index] for index in self._changing}
        return [np.asarray(output) for output in self._session.run(None, feed)]


def _set_heads(function: onnx.FunctionProto, count: int, size: int) -> None:
    """Let an attention's body, as its bundle has it, take such heads."""
    for attribute in (attribute for node in function.node for attribute in node.attribute):
        if attribute.name.endswith("num_heads") and not attribute.ref_attr_name:
            attribute.i = count
        elif attribute.name == "scale":
            attribute.f = 1 / math.sqrt(size)
        elif attribute.t.data_type == onnx.TensorProto.INT64:
            dims = numpy_helper.to_array(attribute.t).copy()
            if dims[-1] > 3:  # the size; 3 is an axis
                dims[-1] = size
                attribute.t.CopyFrom(numpy_helper.from_array(dims))


def _described(name: str, dtype: Any) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, None)
