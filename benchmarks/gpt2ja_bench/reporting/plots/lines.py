"""What the plots share: lines of engines, their labels, and logarithmic axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from gpt2ja_bench.reporting import statistics
from gpt2ja_bench.reporting.plots.labels import label_at_right
from gpt2ja_bench.reporting.plots.style import look, series
from gpt2ja_bench.reporting.units import significant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from gpt2ja_bench.report import EngineReport, Report, Result, Workload

WIDTH = 390
LABELS = 136  # width of the column of labels
Point = tuple[float, float]
Lines = dict[str, list[Point]]  # engine → points


def measured(report: Report, workload: Workload) -> Iterator[tuple[EngineReport, Result]]:
    """The engines that have samples of a workload."""
    for engine in report.engines:
        result = statistics.find_result(report, engine.id, workload.id)
        if engine.status == "ok" and result and result.status == "ok" and result.samples:
            yield engine, result


def engine_lines(
    report: Report,
    workloads: Sequence[Workload],
    point: Callable[[EngineReport, Workload, Result], Point | None],
) -> Lines:
    """A line an engine, with a point for each of its workloads."""
    lines: Lines = {}
    for workload in workloads:
        for engine, result in measured(report, workload):
            if found := point(engine, workload, result):
                lines.setdefault(engine.id, []).append(found)
    return lines


def draw_lines(report: Report, axes: Axes, lines: Lines) -> None:
    """Draw the lines; their axes must have all limits and scales when labels follow."""
    names = series(report)
    for engine in report.engines:
        if engine.id in lines:
            axes.plot(*zip(*lines[engine.id], strict=True), **look(engine, names[engine.id]))


def label_ends(report: Report, axes: Axes, lines: Lines) -> None:
    """Name every line at its last point."""
    names = series(report)
    engines = [engine for engine in report.engines if engine.id in lines]
    label_at_right(
        axes,
        [lines[engine.id][-1] for engine in engines],
        [label(engine) for engine in engines],
        [names[engine.id] for engine in engines],
    )


def label(engine: EngineReport) -> str:
    """The short name, cut to its column, and marked where the output is wrong."""
    name = statistics.short_name(engine)
    if statistics.is_wrong(engine):
        return f"✗ {_cut(name, 12)} wrong"
    return _cut(name, 19)


def said(report: Report, lines: Lines, words: Callable[[list[Point]], str]) -> str:
    """Every line in words, for those who do not see it."""
    names = {engine.id: statistics.short_name(engine) for engine in report.engines}
    return "; ".join(f"{names[engine]} {words(points)}" for engine, points in lines.items())


def heights(points: list[Point]) -> str:
    """The values of a line, from left to right."""
    return ", ".join(significant(y) for _, y in points)


def plain_log(axis: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers, between the powers of ten where few fit."""
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
