"""Checkpoint to bundle: Optimum's export, fused, quantised and verified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_onnx.lazy import lazily

if TYPE_CHECKING:
    from gpt2ja_export.pipeline import ExportSettings, export_bundle

__all__ = ["ExportSettings", "export_bundle"]

__getattr__ = lazily(__name__, {"ExportSettings": "pipeline", "export_bundle": "pipeline"})
