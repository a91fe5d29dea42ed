"""onnxruntime, or a clear word about what to install."""

from __future__ import annotations

from gpt2ja_onnx.errors import MissingExtraError

try:
    import onnxruntime as ort
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "onnxruntime is not installed: pip install -c constraints.txt 'gpt2ja-onnx[cpu]', or "
        "'gpt2ja-onnx[gpu]' for CUDA; the two exclude each other"
    ) from error

__all__ = ["first_line", "ort"]


def first_line(error: Exception) -> str:
    """What an error of onnxruntime says, without the lines that follow."""
    return next(iter(str(error).splitlines()), type(error).__name__)
