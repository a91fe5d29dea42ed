"""onnxruntime, or a clear word about what to install."""

from __future__ import annotations

from gpt2ja_onnx.errors import MissingExtraError

try:
    import onnxruntime as ort
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "onnxruntime is not installed: pip install 'gpt2ja-onnx[cpu]', or 'gpt2ja-onnx[gpu]' for "
        "CUDA; the two exclude each other"
    ) from error

__all__ = ["ort"]
