"""Optimum's export: a PyTorch GPT-2 to a plain ONNX graph with a KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_export.quiet import quiet

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import GPT2LMHeadModel

OPSET = 18


def export_plain(model: GPT2LMHeadModel, output: Path) -> None:
    """Write Optimum's ``text-generation-with-past`` export of `model` to the directory `output`.

    The graph takes ``input_ids``, ``attention_mask``, ``position_ids`` and
    ``past_key_values.N.key|value`` and gives ``logits`` and ``present.N.key|value``.

    Raises:
        OSError: The disk is full or fails.
    """
    from optimum.exporters.onnx import onnx_export_from_model

    # The exporter switches to configurations of its own; the checkpoint's stays as it is.
    try:
        with quiet():
            onnx_export_from_model(
                model,
                output,
                task="text-generation-with-past",
                opset=OPSET,
                do_validation=False,
            )
    except RuntimeError as error:
        if isinstance(error.__cause__, OSError):  # such as a full disk, hidden behind advice
            raise error.__cause__ from None
        raise
