"""Whether native operators compute a bundle's functions, decided for all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gpt2ja_kernels import Kernels, load_kernels

if TYPE_CHECKING:
    from gpt2ja_onnx.bundle.manifest import Manifest

KernelChoice = Literal["auto", "off"]
OPERATORS = "operators"  # in the manifest's quantization: the graph calls functions
STANDARD = "standard"  # what runs where native operators do not
# What the native operators take; see `gpt2ja_kernels`.
_HEAD_GRAIN, _LARGEST_HEAD, _MOST_CANDIDATES = 16, 256, 256


def native_operators(manifest: Manifest, choice: KernelChoice = "auto") -> Kernels | str:
    """The native operators for a bundle, or in a few words why none run."""
    if choice == "off":
        return "they are switched off"
    if OPERATORS not in manifest.quantization:
        if manifest.precision not in ("int8", "int4") or manifest.device != "cpu":
            return f"there are none for {manifest.precision} on {manifest.device}"
        return "the bundle was made before there were any; export it again"
    shape = manifest.shape
    if shape.head_size % _HEAD_GRAIN or shape.head_size > _LARGEST_HEAD:
        return f"heads of {shape.head_size} are no multiple of {_HEAD_GRAIN} up to {_LARGEST_HEAD}"
    if shape.candidates > _MOST_CANDIDATES:
        return f"they give at most {_MOST_CANDIDATES} candidates"
    return load_kernels()
