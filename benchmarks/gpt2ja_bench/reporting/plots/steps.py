"""The distribution of the durations of decoding steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_bench.reporting import statistics
from gpt2ja_bench.reporting.document import Picture
from gpt2ja_bench.reporting.plots.lines import LABELS, WIDTH, label, measured, plain_log
from gpt2ja_bench.reporting.plots.style import add_axes, colour, look, new_figure, series, to_svg
from gpt2ja_bench.reporting.units import milliseconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gpt2ja_bench.report import EngineReport, Report, Workload

_ROW = 24
_PERCENTILES = (5, 25, 50, 75, 95, 99)


def step_latency(report: Report, workload: Workload) -> Picture | None:
    """A row an engine, the fastest at the top."""
    found = []
    for engine, result in measured(report, workload):
        steps = [step for sample in result.samples for step in sample.steps]
        median = statistics.step_time(result)
        if steps and median:
            percentiles = [float(p) for p in np.percentile(steps, _PERCENTILES)]
            percentiles[2] = median.value  # the tables' p50: of the samples' medians
            found.append((engine, percentiles))
    if not found:
        return None
    found.sort(key=lambda pair: -pair[1][2])
    figure = new_figure(WIDTH, 76 + _ROW * len(found))
    axes = add_axes(figure, left=LABELS, right=52, bottom=46, top=26)
    axes.set(xscale="log", xlabel="duration of a decoding step (ms)")
    axes.set_ylim(-0.7, len(found) - 0.3)
    axes.grid(visible=False, axis="y")
    names = series(report)
    axes.set_yticks(range(len(found)), [label(engine) for engine, _ in found])
    for place, (engine, percentiles) in enumerate(found):
        _row(axes, place, engine, names[engine.id], percentiles)
    _beside(axes, len(found) - 0.1, "p50", "muted")
    plain_log(axes.xaxis)
    title = f"Decoding steps: {workload.title}"
    said = "; ".join(
        f"{statistics.short_name(engine)} median {milliseconds(p[2])}, "
        f"99th percentile {milliseconds(p[5])}"
        for engine, p in reversed(found)
    )
    caption = (
        "Point and number: the median. Thick: the middle half. Thin: from the 5th to the 99th "
        "percentile, with a tick at the 95th. Left is better."
    )
    name = f"steps-{workload.id}"
    svg = to_svg(figure, name, title, f"Milliseconds of a step: {said}.")
    return Picture(name, title, svg, caption)


def _row(axes: Axes, place: int, engine: EngineReport, name: str, percentiles: list[float]) -> None:
    p5, p25, p50, p75, p95, p99 = (1e3 * seconds for seconds in percentiles)
    ink = colour(name)
    axes.plot([p5, p99], [place, place], color=ink, linewidth=1.2)
    axes.plot([p25, p75], [place, place], color=ink, linewidth=7, alpha=0.5)
    axes.plot([p95], [place], color=ink, marker="|", markersize=10)
    axes.plot([p50], [place], **look(engine, name))
    _beside(axes, place, milliseconds(percentiles[2]), name)
    tick = axes.get_yticklabels()[place]
    tick.set(color=ink, fontweight="bold" if name == "ours" else "normal")


def _beside(axes: Axes, place: float, text: str, name: str) -> None:
    axes.annotate(
        text,
        (1, place),
        xycoords=axes.get_yaxis_transform(),
        xytext=(8, 0),
        textcoords="offset points",
        verticalalignment="center",
        color=colour(name),
        fontweight="bold" if name == "ours" else "normal",
    )
