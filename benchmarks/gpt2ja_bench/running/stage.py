"""What the engines of a run have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_bench.running.shape import Shape


@dataclass(frozen=True, slots=True)
class Stage:
    """What all engines have in common.

    Attributes:
        checkpoint: Directory whose weights are timed.
        check_checkpoint: A trained one, on which engines are held against PyTorch.
        shape: Of the checkpoint that is timed.
        threads: Of every engine.
        device: Where they run.
        time_limit: Seconds that a call may take.
    """

    checkpoint: Path
    check_checkpoint: Path
    shape: Shape
    threads: int
    device: Literal["cpu", "cuda"]
    time_limit: float = 300.0
