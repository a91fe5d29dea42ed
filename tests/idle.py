"""Waits for what the engine's thread does a moment later."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2ja_onnx import GPT2Ja


def wait_until_idle(model: GPT2Ja, seconds: float = 5) -> None:
    """Wait until no row and no place in the queue is taken; fail if that takes too long."""
    end = time.monotonic() + seconds
    while not model._worker._engine.idle or model._worker.waiting != (0, 0):
        assert time.monotonic() < end, "rows are still taken"
        time.sleep(0.01)
