"""What the processor can do, as far as it decides which kernels are right."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_VNNI = {"avx512_vnni", "avx_vnni"}


@functools.cache
def int8_products_saturate() -> bool:
    """Whether onnxruntime's fast products of uint8 and int8 overflow on this processor.

    On x86-64 without VNNI they add pairs of products in 16 bits (``pmaddubsw``), which saturate:
    "Quantize ONNX models" in onnxruntime's documentation, "When to use reduce-range".
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        lines = _CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return True  # slower where it was not needed, right everywhere
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _VNNI & set(flags.split())
