"""Where this project is not the best: what a fair report says without being asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_bench.reporting import statistics
from gpt2ja_bench.reporting.units import mebibytes, megabytes, milliseconds, significant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gpt2ja_bench.report import EngineReport, Report, Workload

_Speeds = dict[str, list[float]]  # engine → one speed a sample, larger is faster

_MEASURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "step": ("decoding step", lambda speed: f"{milliseconds(1 / speed)} ms"),
    "first token": ("first token", lambda speed: f"{milliseconds(1 / speed)} ms"),
    "call": ("whole call", lambda speed: f"{significant(speed)} tokens/s"),
    "start": ("new process to first token", lambda speed: f"{significant(1 / speed)} s"),
}


def shortfalls(report: Report) -> list[str]:
    """Say where another engine is better than the best of this project beyond the noise.

    Engines are compared over all precisions, and among those of the same number of bits. Engines
    whose output is not PyTorch's do not count.
    """
    engines = {e.id: e for e in report.engines if e.status == "ok" and not statistics.is_wrong(e)}
    if not any(map(statistics.is_ours, engines.values())):
        return []
    found = [
        line for workload in report.workloads for line in _of_workload(report, workload, engines)
    ]
    loads = {e.id: [1 / seconds for seconds in e.load] for e in engines.values() if e.load}
    found += [
        f"Load time: {engines[other].title} is faster than {engines[ours].title}: "
        f"{_factor((ours, other), loads, lambda speed: f'{significant(1 / speed)} s')}."
        for ours, other in _beaten(engines, loads)
    ]
    sizes = {e.id: e.model_bytes for e in engines.values() if e.model_bytes}
    return found + _smaller(engines, sizes, "Size on disk", lambda size: f"{megabytes(size)} MB")


def _of_workload(
    report: Report, workload: Workload, engines: dict[str, EngineReport]
) -> Iterator[str]:
    results = {
        r.engine: r
        for r in report.results
        if r.workload == workload.id and r.status == "ok" and r.engine in engines
    }
    measured = {name: statistics.measures(r, workload.kind) for name, r in results.items()}
    beaten: dict[tuple[str, str], list[str]] = {}
    for measure, (title, shown) in _MEASURES.items():
        speeds = {name: found[measure] for name, found in measured.items() if found.get(measure)}
        for pair in _beaten(engines, speeds):
            beaten.setdefault(pair, []).append(f"{title} {_factor(pair, speeds, shown)}")
    for (ours, other), said in beaten.items():
        names = f"{engines[other].title} is faster than {engines[ours].title}"
        yield f"{workload.title}: {names}: {', '.join(said)}."
    memory = {name: r.peak_memory for name, r in results.items() if r.peak_memory}
    if workload.kind == "cold_start":
        yield from _smaller(
            engines, memory, f"{workload.title}, peak memory", lambda size: f"{mebibytes(size)} MiB"
        )


def _beaten(engines: dict[str, EngineReport], speeds: _Speeds) -> list[tuple[str, str]]:
    """Pairs of an engine of ours and a faster one, the fastest of each group."""
    medians = {name: float(np.median(values)) for name, values in speeds.items()}
    pairs = []
    for group in _groups(engines, list(speeds)):
        ours, other = _best(engines, group, lambda name: -medians[name])
        if ours and other:
            ratio = statistics.paired_ratio(speeds[other], speeds[ours])
            if ratio and ratio.low > 1 and (ours, other) not in pairs:
                pairs.append((ours, other))
    return pairs


def _groups(engines: dict[str, EngineReport], names: Sequence[str]) -> list[list[str]]:
    """All engines, then those of each number of bits."""
    widths = {name: statistics.bits(engines[name].precision) for name in names}
    known = sorted({width for width in widths.values() if width}, reverse=True)
    return [list(names), *([n for n in names if widths[n] == width] for width in known)]


def _best(
    engines: dict[str, EngineReport], names: Sequence[str], cost: Callable[[str], float]
) -> tuple[str | None, str | None]:
    """The cheapest of ours and the cheapest of the others."""
    ours = [name for name in names if statistics.is_ours(engines[name])]
    others = [name for name in names if not statistics.is_ours(engines[name])]
    return min(ours, key=cost, default=None), min(others, key=cost, default=None)


def _factor(pair: tuple[str, str], speeds: _Speeds, shown: Callable[[float], str]) -> str:
    ours, other = pair
    ratio = statistics.paired_ratio(speeds[other], speeds[ours])
    assert ratio
    values = [shown(float(np.median(speeds[name]))) for name in (other, ours)]
    return f"{significant(ratio.value)}× ({values[0]} against {values[1]})"


def _smaller(
    engines: dict[str, EngineReport],
    sizes: dict[str, int],
    title: str,
    shown: Callable[[int], str],
) -> list[str]:
    ours, other = _best(engines, list(sizes), lambda name: sizes[name])
    if not ours or not other or sizes[ours] <= sizes[other]:
        return []
    return [
        f"{title}: {engines[other].title} needs {shown(sizes[other])}, "
        f"{engines[ours].title} {shown(sizes[ours])}."
    ]
