"""How many threads this process may really use, and one for what can run beside the rest."""

from __future__ import annotations

import math
import os
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_CGROUP = Path("/sys/fs/cgroup")


def available_threads() -> int:
    """The cores of this process's affinity, limited by its container's CPU quota; at least 1.

    onnxruntime's own default is the host's cores, which oversubscribes a container.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every platform
        cores = os.cpu_count() or 1
    quota = _quota()
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _quota() -> float | None:
    """CPUs that the container may use: cgroup v2's ``cpu.max``, or v1's CFS quota."""
    try:
        limit, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (_CGROUP / "cpu/cpu.cfs_quota_us").read_text()
            period = (_CGROUP / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        quota = int(limit) / int(period)
    except ValueError:  # "max": no limit
        return None
    return quota if quota > 0 else None


def started(function: Callable[[], T]) -> Callable[[], T]:
    """Run a function in a thread of its own, for what gives the interpreter free for long.

    Returns:
        A call that waits for it, and returns or raises what it did. To be called once.
    """
    outcome: queue.SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((function(), None))
        except BaseException as error:
            outcome.put((None, error))

    def wait() -> T:
        value, error = outcome.get()
        if error is not None:
            raise error
        return cast("T", value)

    threading.Thread(target=run, name="gpt2ja-onnx load", daemon=True).start()
    return wait
