"""What processes take, as Linux counts it."""

from __future__ import annotations

from pathlib import Path

_KiB = 1024


def peak_memory(process: int | None = None) -> int:
    """Most bytes that a process, or this one, had in memory since `reset_peak_memory`."""
    for line in Path(f"/proc/{process or 'self'}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * _KiB
    return 0


def reset_peak_memory() -> None:
    """Forget the peak so far; see ``clear_refs`` in Linux's proc(5)."""
    Path("/proc/self/clear_refs").write_text("5")
