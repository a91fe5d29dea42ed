"""The roofline: how near each engine comes to what the machine's memory and arithmetic allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_bench.reporting import statistics
from gpt2ja_bench.reporting.document import Picture
from gpt2ja_bench.reporting.limits import integer_rate
from gpt2ja_bench.reporting.plots.lines import (
    LABELS,
    WIDTH,
    Lines,
    Point,
    draw_lines,
    engine_lines,
    heights,
    label_ends,
    plain_log,
    said,
)
from gpt2ja_bench.reporting.plots.style import add_axes, colour, new_figure, to_svg
from gpt2ja_bench.reporting.units import significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gpt2ja_bench.report import EngineReport, Report, Result, Workload

_NAME = "roofline"


def roofline(report: Report) -> Picture | None:
    """Operations a second over operations a byte of weights (Williams et al., 2009)."""
    ladder = statistics.batch_ladder(report)
    lines = engine_lines(report, ladder, _achieved)
    if not lines:
        return None
    machine = report.machine
    bandwidth, rate, integers = (
        value / 1e9 for value in (machine.bandwidth, machine.matrix_rate, machine.integer_rate)
    )
    figure = new_figure(WIDTH, 360)
    axes = add_axes(figure, left=64, right=LABELS, bottom=46, top=12)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="operations per byte of weights",
        ylabel="billion operations per second",
    )
    _roofs(axes, lines, bandwidth, {"GFLOP/s": rate, "GOP/s, int8": integers})
    draw_lines(report, axes, lines)
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)
    label_ends(report, axes, lines)
    title = "Roofline of the decoding step"
    rows = ", ".join(str(workload.rows) for workload in ladder)
    text = (
        f"The machine reads {significant(bandwidth)} gigabytes and computes {significant(rate)} "
        "billion floating point operations a second. Its integer rate: "
        f"{integer_rate(machine)}. Billion operations a second at "
        f"{rows} rows: {said(report, lines, heights)}."
    )
    precision = "fp16" if report.settings.device == "cuda" else "fp32"
    caption = (
        "Along a line from left to right: more rows. Hollow: 16 or 32 bits a weight. "
        "Grey, slanted: the weights read once a step "
        f"at the measured {significant(bandwidth)} GB/s. Grey, level: the measured {precision} "
        f"matrix rate of {significant(rate)} GFLOP/s, and the integer rate: "
        f"{integer_rate(machine)}. Nearer to the lower of slanted and level is better."
    )
    return Picture(_NAME, title, to_svg(figure, _NAME, title, text), caption)


def _achieved(engine: EngineReport, workload: Workload, result: Result) -> Point | None:
    step = statistics.step_time(result)
    if not step or not engine.weight_bytes or not engine.step_operations:
        return None
    operations = workload.rows * engine.step_operations
    return operations / engine.weight_bytes, operations / step.value / 1e9


def _roofs(axes: Axes, lines: Lines, bandwidth: float, rates: dict[str, float]) -> None:
    """Draw what the machine allows, and set the limits to show it and every point.

    Args:
        axes: To draw on.
        lines: What else will be drawn.
        bandwidth: Billion bytes a second.
        rates: Billion operations a second by their unit; 0 where they were not measured.
    """
    rates = {unit: rate for unit, rate in rates.items() if rate}
    xs, ys = zip(*(point for points in lines.values() for point in points), strict=True)
    low, high = min(xs) / 1.6, max(xs) * 1.6
    bottom, top = min(ys) / 1.6, max(*ys, *rates.values()) * 2
    axes.set(xlim=(low, high), ylim=(bottom, top))
    axes.autoscale(False)
    grey = colour("muted")
    for roof in ([low * bandwidth, high * bandwidth], *([rate, rate] for rate in rates.values())):
        axes.plot([low, high], roof, color=grey, linewidth=5, alpha=0.35)
    for unit, rate in rates.items():
        axes.text(low * 1.1, rate * 1.1, f"{significant(rate)} {unit}", color=grey, fontsize=11)
    # Beside the slanted roof, above the level ones, where no point and no label can be.
    x = min(high, top / bandwidth) / 1.3
    left = np.log(x / low) > 0.65 * np.log(high / low)
    axes.annotate(
        f"{significant(bandwidth)} GB/s",
        (x, x * bandwidth),
        xytext=(-8 if left else 8, 0),
        textcoords="offset points",
        horizontalalignment="right" if left else "left",
        verticalalignment="center",
        color=grey,
        fontsize=11,
    )
