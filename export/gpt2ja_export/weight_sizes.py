"""What the weights of a written graph weigh, by part of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from pathlib import Path

# Part → what the names of its weights contain; the exporter keeps PyTorch's names on weights.
_PARTS = {
    "embedding_and_head": ("wte", "embedding", "head", "onnx::MatMul"),
    "positions": ("wpe",),
    "attention": (".attn.",),
    "feed_forward": (".mlp.",),
    "norms": (".ln_",),
}


def weights_by_part(model_file: Path) -> dict[str, int]:
    """Bytes of the stored weights of a graph, scales and zero points of quantised ones included.

    Equal tensors are stored once and counted once. What belongs to no part is ``other``.
    """
    sizes = dict.fromkeys([*_PARTS, "other"], 0)
    for name, value in ir.load(model_file).graph.initializers.items():
        if value.const_value is not None:
            sizes[_part(name)] += value.const_value.nbytes
    return sizes


def _part(name: str) -> str:
    matches = (part for part, marks in _PARTS.items() if any(mark in name for mark in marks))
    return next(matches, "other")
