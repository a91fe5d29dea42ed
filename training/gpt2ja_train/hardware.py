"""What a training run computes on, and in which dtype it is faster there."""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING, NamedTuple

from gpt2ja_onnx.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GPT2LMHeadModel

    from gpt2ja_train.training_settings import Dtype


class Precision(NamedTuple):
    """In what a run multiplies.

    Attributes:
        bf16: bf16 autocast rather than fp32.
        reason: One line for the log.
    """

    bf16: bool
    reason: str


def hardware_name() -> str:
    """The devices of this process, for the report."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def choose_precision(
    dtype: Dtype, model: GPT2LMHeadModel, rows: int, block_tokens: int
) -> Precision:
    """The dtype that is asked for, or with ``auto`` the faster one.

    GPUs say whether they have bf16. Of processors that have it some are slower with it, so two
    passes forth and back are timed in each, and the shorter ones compared.

    Args:
        dtype: What is asked for.
        model: What is to be trained; it is left as it is.
        rows: Blocks a step.
        block_tokens: Tokens a block.

    Raises:
        SettingError: bf16 is asked for, and the GPU does not have it.
    """
    import torch

    cuda = torch.cuda.is_available()
    if cuda:
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == "bf16" and cuda and not supported:
        raise SettingError("--dtype bf16: this GPU has no bf16; use --dtype fp32")
    if dtype != "auto":
        return Precision(dtype == "bf16", f"dtype {dtype}, as asked for")
    if cuda or not supported:
        has = "has" if supported else "has no"
        name = "bf16" if supported else "fp32"
        return Precision(supported, f"dtype {name}: this {'GPU' if cuda else 'CPU'} {has} bf16")
    ids = torch.zeros((rows, block_tokens), dtype=torch.int64)
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(2):
        for bf16, seconds in times.items():
            seconds.append(_seconds(model, ids, bf16=bf16))
    fp32_speed, bf16_speed = (ids.numel() / min(seconds) for seconds in times.values())
    faster = bf16_speed > fp32_speed
    return Precision(
        faster,
        f"dtype {'bf16' if faster else 'fp32'}: timed {fp32_speed:.0f} tokens/s in fp32 and "
        f"{bf16_speed:.0f} in bf16",
    )


def _seconds(model: GPT2LMHeadModel, ids: Tensor, *, bf16: bool) -> float:
    """The time of a pass forth and back."""
    import torch

    started = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    seconds = time.perf_counter() - started
    model.zero_grad()
    return seconds
