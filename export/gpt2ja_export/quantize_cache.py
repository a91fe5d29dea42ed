"""Keys and values kept as int8: ranges found on a text, and written into the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from gpt2ja_export.graph_editor import GraphEditor, constant, producer
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import GPT2LMHeadModel

    from gpt2ja_onnx.bundle.manifest import ModelShape

_INPUTS = 14  # of GroupQueryAttention, up to the scales
_K_SCALE, _V_SCALE = 12, 13
# What another text drives beyond the range that this one showed is clipped, so leave some room.
_ROOM: dict[names.CachePart, float] = {"key": 1.5, "value": 1.2}


def cache_ranges(model: GPT2LMHeadModel, text_ids: Sequence[int]) -> NDArray[np.float32]:
    """Largest absolute key and value of every channel over a text.

    Args:
        model: In evaluation mode.
        text_ids: Token ids, read in windows of the context; a short text is repeated until every
            position has seen some.

    Returns:
        Shape (layers, 2, heads, head size), keys before values.
    """
    import torch

    context = model.config.n_positions
    windows = -(-len(text_ids) // context)
    ids = np.resize(np.asarray(text_ids, dtype=np.int64), (windows, 1, context))
    ranges = np.zeros((), dtype=np.float32)
    for window in torch.from_numpy(ids):
        with torch.inference_mode():
            layers = model(window, use_cache=True, logits_to_keep=1).past_key_values
        found = [
            [part[0].abs().amax(dim=1).numpy() for part in layers[layer]]
            for layer in range(model.config.n_layer)
        ]
        ranges = np.maximum(ranges, np.asarray(found, dtype=np.float32))
    return ranges


def quantize_cache(
    model: ir.Model, shape: ModelShape, ranges: NDArray[np.float32]
) -> dict[str, object]:
    """Let every attention of the fused fp32 graph `model` keep its cache as int8, in place.

    Keys have channels that are far larger than others, always the same ones. Their ranges are
    made equal: what a channel's keys are divided by, its queries are multiplied by, which changes
    no product of the two. Then one scale a layer serves all keys, and one all values, for all
    rows and positions: what a row's cache holds depends on that row alone.

    Args:
        model: The fused graph, before its weights are quantised.
        shape: Of the model.
        ranges: From `cache_ranges`.

    Returns:
        What was done, for the manifest.

    Raises:
        ExportError: Not every layer has an attention behind a product and a bias.
    """
    editor = GraphEditor(model.graph)
    nodes = editor.nodes("GroupQueryAttention")
    changed = 0
    for layer, node in enumerate(nodes):
        keys, values = ranges[layer]
        # A channel that the text left at rest must not blow up another text's.
        keys = np.maximum(keys, keys.max() / 100 or 1)
        changed += _scale_projections(editor, node, layer, 1 / keys.reshape(-1))
        node.resize_inputs(_INPUTS)
        limits = zip((_K_SCALE, _V_SCALE), names.CACHE_PARTS, (1, values.max() or 1), strict=True)
        for index, part, largest in limits:
            scale = np.array([_ROOM[part] * largest / 127], dtype=np.float32)
            node.replace_input_with(index, editor.store(f"cache.{layer}.{part}.scale", scale))
            for value in (
                editor.input(names.past_name(layer, part)),
                editor.output(names.present_name(layer, part)),
            ):
                value.type = ir.TensorType(ir.DataType.INT8)
            node.attributes.add(ir.AttrString(f"{part[0]}_quant_type", "PER_TENSOR"))
        node.attributes.add(ir.AttrInt64("kv_cache_bit_width", 8))
    if (len(nodes), changed) != (shape.layers, shape.layers):
        raise ExportError(f"{changed} caches were quantised, expected {shape.layers}")
    return {"cache": "int8 per layer, keys of equal range", "cache_room": _ROOM}


def _scale_projections(
    editor: GraphEditor, attention: ir.Node, layer: int, key_factors: NDArray[np.float32]
) -> bool:
    """Multiply keys by `key_factors`, shape (width,), and divide queries by them, in the weights.

    Returns:
        Whether the attention has the product and the bias before it that hold these weights.
    """
    biased = producer(attention.inputs[0], "Add")
    product = producer(biased.inputs[0], "MatMul") if biased is not None else None
    if biased is None or product is None:
        return False
    factors = np.concatenate([1 / key_factors, key_factors, np.ones_like(key_factors)])
    for user, index in ((product, 1), (biased, 1)):
        weight = user.inputs[index]
        assert weight is not None
        # Equal weights of several layers are stored once; scaled, they differ.
        name = f"{weight.name}.scaled.{layer}"
        user.replace_input_with(index, editor.store(name, constant(weight) * factors))
    return True
