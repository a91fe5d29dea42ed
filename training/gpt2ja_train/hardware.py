"""What a training run computes on, and in which precision it is faster there."""

from __future__ import annotations

import platform
import time

_SIDE = 1024  # of the matrices that are multiplied to find out


def name() -> str:
    """The devices of this process, for the report."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def prefers_bf16() -> bool:
    """Whether products are faster in bf16 than in fp32.

    GPUs say so. Of processors that have bf16 some are slower with it, so they are timed.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return _seconds(torch.bfloat16) < _seconds(torch.float32)


def _seconds(dtype: object) -> float:
    """The shortest of some products' times."""
    import torch

    matrix = torch.ones(_SIDE, _SIDE).to(dtype)  # type: ignore[call-overload]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - started)
    return min(times)
