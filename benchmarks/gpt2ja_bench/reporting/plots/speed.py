"""Speed by batch size, and speed against quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from gpt2ja_bench.reporting import statistics
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
from gpt2ja_bench.reporting.units import signed_percent, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gpt2ja_bench.report import EngineReport, Report, Result, Workload

_LINEAR = 0.01  # percent of perplexity around zero that are drawn linearly


def speed_by_batch(report: Report) -> Picture | None:
    """Tokens a second over the rows of a batch, a line an engine."""
    ladder = statistics.batch_ladder(report)
    lines = engine_lines(report, ladder, _throughput)
    if not lines:
        return None
    figure = new_figure(WIDTH, 360)
    axes = add_axes(figure, left=64, right=LABELS, bottom=46, top=12)
    rows = [workload.rows for workload in ladder]
    axes.set(xscale="log", yscale="log", xlabel="rows in the batch", ylabel="tokens per second")
    axes.set_xlim(min(rows) / 1.25, max(rows) * 1.25)
    axes.set_xticks(rows, [str(count) for count in rows])
    axes.xaxis.set_minor_formatter(NullFormatter())
    draw_lines(report, axes, lines)
    plain_log(axes.yaxis)
    label_ends(report, axes, lines)
    title = "Speed by batch size"
    text = f"Tokens per second at {', '.join(map(str, rows))} rows: {said(report, lines, heights)}."
    caption = (
        "Tokens of all rows together, over whole calls with their prompts. Higher is better. "
        "Hollow: 16 or 32 bits a weight."
    )
    svg = to_svg(figure, "speed-by-batch", title, text)
    return Picture("speed-by-batch", title, svg, caption)


def quality(report: Report, workload: Workload) -> Picture | None:
    """Tokens a second of a workload over the change of the perplexity, a point an engine."""
    points: Lines = {}
    missing = []
    for engine, result in measured(report, workload):
        change = statistics.perplexity_change(engine.check) if engine.check else None
        speed = statistics.throughput(result)
        assert speed
        if change is None:
            missing.append(statistics.short_name(engine))
        else:
            points[engine.id] = [(change, speed.value)]
    if not points:
        return None
    figure = new_figure(WIDTH, 320)
    axes = add_axes(figure, left=64, right=LABELS, bottom=46, top=12)
    axes.set(
        yscale="log",
        xlabel="change of the perplexity (%)",
        ylabel="tokens per second",
    )
    _percent_scale(axes, [change for ((change, _),) in points.values()])
    draw_lines(report, axes, points)
    axes.margins(y=0.1)
    plain_log(axes.yaxis)
    label_ends(report, axes, points)
    title = f"Speed against quality: {workload.title}"
    text = said(report, points, _trade)
    caption = "Against PyTorch in fp32, which is at 0. Up is faster, right is worse text."
    if missing:
        caption += f" Not shown, as they tell no perplexity: {', '.join(missing)}."
    name = f"quality-{workload.id}"
    return Picture(name, title, to_svg(figure, name, title, f"{text}."), caption)


def _throughput(engine: EngineReport, workload: Workload, result: Result) -> Point | None:
    speed = statistics.throughput(result)
    return (workload.rows, speed.value) if speed else None


def _trade(points: list[Point]) -> str:
    ((change, speed),) = points
    return f"{significant(speed)} tokens per second, perplexity {signed_percent(change)}"


def _percent_scale(axes: Axes, changes: list[float]) -> None:
    """Zero, then powers of ten of a percent to the right, and to the left if something is there."""
    axes.set_xscale("symlog", linthresh=_LINEAR, linscale=0.8)
    high = max(0.1, *changes) * 2.5
    low = min(-_LINEAR, *changes) * (2.5 if min(changes) < -_LINEAR else 0.5)
    axes.set_xlim(low, high)
    decades = np.log10(max(high, -low) / _LINEAR)
    powers = [_LINEAR * 10**power for power in range(0, 12, 1 if decades < 4 else 2)]
    ticks = [tick for tick in (*(-p for p in powers), 0, *powers) if low <= tick <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
