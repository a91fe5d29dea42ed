"""How a decoding step grows with the texts and with the rows, beside the fastest peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.ticker import NullFormatter

from gpt2ja_bench.reporting import growth, statistics
from gpt2ja_bench.reporting.document import Picture
from gpt2ja_bench.reporting.plots.lines import (
    LABELS,
    WIDTH,
    Lines,
    Point,
    draw_lines,
    engine_lines,
    heights,
    label_ends,
    measured,
    plain_log,
    said,
)
from gpt2ja_bench.reporting.plots.style import add_axes, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gpt2ja_bench.report import EngineReport, Report, Result, Workload

_PEERS = 2
_LONG = 256  # new tokens from which a workload tells how steps grow
_WINDOWS = 16


def step_by_positions(report: Report) -> Picture | None:
    """Milliseconds of a step over the positions that every row has."""
    long = [w for w in report.workloads if w.kind == "generate" and w.new_tokens >= _LONG]
    if not long:
        return None
    workload = max(long, key=lambda w: w.new_tokens)
    lines: Lines = {}
    for engine, result in measured(report, workload):
        if engine.id in _shown(report):
            steps = growth.steps_by_position(result, workload, _WINDOWS)
            lines[engine.id] = [(position, 1e3 * seconds) for position, seconds in steps]
    lines = {engine: points for engine, points in lines.items() if points}
    if not lines:
        return None
    axes = _axes("positions of every row", [x for points in lines.values() for x, _ in points])
    caption = (
        f"{workload.rows} rows, medians of windows of steps, measured from {workload.prompt_tokens}"
        f" to {workload.prompt_tokens + workload.new_tokens:,} positions. {_BESIDE}"
    )
    title = f"A step as texts grow, {workload.rows} rows"
    return _picture(report, axes, lines, "step-by-positions", title, caption)


def step_by_rows(report: Report) -> Picture | None:
    """Milliseconds of a step over the rows of the batch."""
    ladder = statistics.row_ladder(report)
    shown = _shown(report)
    lines = engine_lines(report, ladder, _step)
    lines = {engine: points for engine, points in lines.items() if engine in shown}
    if not lines or len(ladder) < 2:
        return None
    rows = [workload.rows for workload in ladder]
    axes = _axes("rows in the batch", rows)
    axes.set_xscale("log")
    axes.set_xlim(min(rows) / 1.25, max(rows) * 1.25)
    axes.set_xticks(rows, [str(count) for count in rows])
    axes.xaxis.set_minor_formatter(NullFormatter())
    title = "A step as the batch grows"
    return _picture(report, axes, lines, "step-by-rows", title, _BESIDE)


_BESIDE = (
    "This project beside the fastest other libraries, in int8 where they have it. Lower is "
    "better. Hollow: 16 or 32 bits a weight."
)


def _shown(report: Report) -> set[str]:
    """This project's engines, and the peers of the workloads that only the fastest ran."""
    ours = {engine.id for engine in report.engines if statistics.is_ours(engine)}
    narrow = {workload.id for workload in report.workloads if workload.peers is not None}
    ran = {result.engine for result in report.results if result.workload in narrow}
    ladder = statistics.batch_ladder(report)
    most = ladder[-1].rows if ladder else 1
    return ours | ((ran - ours) or set(growth.fastest_peers(report, most, _PEERS)))


def _step(engine: EngineReport, workload: Workload, result: Result) -> Point | None:
    step = statistics.step_time(result)
    return (workload.rows, 1e3 * step.value) if step else None


def _axes(label: str, xs: list[float] | list[int]) -> Axes:
    axes = add_axes(new_figure(WIDTH, 320), left=64, right=LABELS, bottom=46, top=12)
    margin = 0.04 * (max(xs) - min(xs)) or 1
    axes.set(yscale="log", xlabel=label, ylabel="duration of a decoding step (ms)")
    axes.set_xlim(min(xs) - margin, max(xs) + margin)
    return axes


def _picture(
    report: Report, axes: Axes, lines: Lines, name: str, title: str, caption: str
) -> Picture:
    draw_lines(report, axes, lines)
    axes.margins(y=0.1)
    plain_log(axes.yaxis)
    label_ends(report, axes, lines)
    text = f"Milliseconds of a step, from left to right: {said(report, lines, heights)}."
    figure = axes.get_figure(root=True)
    assert figure
    return Picture(name, title, to_svg(figure, name, title, text), caption)
