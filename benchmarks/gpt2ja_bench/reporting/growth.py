"""How steps grow: with the positions of texts, and on which engines that is worth a look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_bench.reporting import statistics

if TYPE_CHECKING:
    from gpt2ja_bench.report import Report, Result, Workload


def fastest_peers(report: Report, rows: int, count: int) -> list[str]:
    """The other projects' fastest engines at about so many rows, one a library.

    Among those with weights of 8 bits if there are any, since that is what this project is
    compared in; empty where nothing was measured yet.
    """
    ladder = statistics.batch_ladder(report)
    if not ladder:
        return []
    workload = min(ladder, key=lambda w: abs(w.rows - rows))
    steps: dict[str, float] = {}
    for engine in report.engines:
        result = statistics.find_result(report, engine.id, workload.id)
        step = statistics.step_time(result) if result else None
        if step and not statistics.is_ours(engine) and not statistics.is_wrong(engine):
            steps[engine.id] = step.value
    peers = sorted((e for e in report.engines if e.id in steps), key=lambda e: steps[e.id])
    eights = [engine for engine in peers if statistics.bits(engine.precision) == 8]
    libraries: dict[str, str] = {}
    for engine in eights or peers:
        libraries.setdefault(engine.library.split(" ")[0], engine.id)
    return list(libraries.values())[:count]


def steps_by_position(result: Result, workload: Workload, windows: int) -> list[tuple[int, float]]:
    """How long a step takes as texts grow: (positions, seconds), medians of equal windows."""
    count = min((len(sample.steps) for sample in result.samples), default=0)
    if count < windows:
        return []
    steps = np.asarray([sample.steps[:count] for sample in result.samples])
    parts = np.array_split(np.arange(count), windows)
    first = workload.prompt_tokens + 1  # a step's positions, its own included
    return [(first + int(np.median(p)), float(np.median(steps[:, p]))) for p in parts]
