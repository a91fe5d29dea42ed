"""Checkpoint to bundle: Optimum's export, fused, quantised and verified."""

from gpt2ja_export.pipeline import ExportSettings, export_bundle

__all__ = ["ExportSettings", "export_bundle"]
