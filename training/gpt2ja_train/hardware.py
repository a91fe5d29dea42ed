"""What a training run computes on, and in which precision it is faster there."""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GPT2LMHeadModel


def hardware_name() -> str:
    """The devices of this process, for the report."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def prefers_bf16(model: GPT2LMHeadModel) -> bool:
    """Whether a training step is faster with products in bf16 than in fp32.

    GPUs say so. Of processors that have bf16 some are slower with it, so a step is timed.

    Args:
        model: What is to be trained; it is left as it is.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    ids = torch.zeros((1, model.config.n_positions), dtype=torch.int64)
    return _seconds(model, ids, bf16=True) < _seconds(model, ids, bf16=False)


def _seconds(model: GPT2LMHeadModel, ids: Tensor, *, bf16: bool) -> float:
    """The shorter one of two passes forth and back."""
    import torch

    times = []
    for _ in range(2):
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        times.append(time.perf_counter() - started)
        model.zero_grad()
    return min(times)
