"""Waits for what the engine's thread does a moment later, and counts what it does until then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from unittest import mock

from gpt2ja_onnx.device.cpu.plan import CpuPlan

if TYPE_CHECKING:
    from gpt2ja_onnx import GPT2Ja


def wait_until_idle(model: GPT2Ja, seconds: float = 5) -> None:
    """Wait until no row and no place in the queue is taken; fail if that takes too long."""
    end = time.monotonic() + seconds
    while not model._worker._engine.idle or model._worker.waiting != (0, 0):
        assert time.monotonic() < end, "rows are still taken"
        time.sleep(0.01)


def calls_until_idle(model: GPT2Ja) -> int:
    """Wait until idle; return how many calls of the graph began meanwhile.

    Of requests that have just been cancelled it is at most those of a step that was under way.
    """
    calls = 0
    run = CpuPlan.run

    def counted(plan: CpuPlan) -> None:
        nonlocal calls
        calls += 1
        run(plan)

    with mock.patch.object(CpuPlan, "run", counted):
        wait_until_idle(model)
    return calls
