"""onnxruntime, or a clear word about what to install."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_onnx.errors import MissingExtraError

if TYPE_CHECKING:
    from gpt2ja_onnx.bundle import Device

try:
    import onnxruntime as ort
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "onnxruntime is not installed: pip install 'gpt2ja-onnx[cpu]', or 'gpt2ja-onnx[gpu]' for "
        "CUDA; the two exclude each other"
    ) from error

__all__ = ["ort", "providers_for"]

_PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def providers_for(device: Device) -> list[str]:
    """The providers that can run a bundle made for `device`, as far as they are here."""
    return [name for name in ort.get_available_providers() if name == _PROVIDERS[device]]
