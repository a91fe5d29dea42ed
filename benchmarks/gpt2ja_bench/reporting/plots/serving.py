"""Servers over the rate of requests: what they answer in time, and when the first token comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.ticker import NullFormatter

from gpt2ja_bench.reporting.document import Picture
from gpt2ja_bench.reporting.plots.lines import (
    LABELS,
    WIDTH,
    Lines,
    draw_lines,
    heights,
    label_ends,
    plain_log,
    said,
)
from gpt2ja_bench.reporting.plots.style import add_axes, colour, new_figure, to_svg
from gpt2ja_bench.reporting.serving import FIRST_TOKEN_LIMIT, GAP_LIMIT, first_token, goodput

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from gpt2ja_bench.report import Report, Served


def serve_goodput(report: Report) -> Picture | None:
    """Requests a second that are answered within the limits, over those that come."""
    lines = _lines(report, goodput)
    if not lines:
        return None
    axes, rates = _axes(lines, "requests per second within the limits")
    axes.plot(rates, rates, color=colour("muted"), linewidth=5, alpha=0.35)
    draw_lines(report, axes, lines)
    axes.set_ylim(0, 1.1 * max(rates))
    caption = (
        f"Within the limits: the first token within {FIRST_TOKEN_LIMIT:g} s, and "
        f"{1e3 * GAP_LIMIT:g} ms between tokens on average. Grey: every request. Higher is better."
    )
    return _picture(report, axes, lines, "serve-goodput", "Serving: requests in time", caption)


def serve_first_token(report: Report) -> Picture | None:
    """The 95th percentile of the time to the first token, over the requests that come."""
    lines = _lines(report, lambda served: 1e3 * first_token(served, 95))
    if not lines:
        return None
    axes, _ = _axes(lines, "first token, 95th percentile (ms)")
    draw_lines(report, axes, lines)
    axes.set_yscale("log")
    axes.margins(y=0.1)
    plain_log(axes.yaxis)
    caption = "From when a request was due to the first text of its answer. Lower is better."
    return _picture(report, axes, lines, "serve-first-token", "Serving: first token", caption)


def _lines(report: Report, value: Callable[[Served], float]) -> Lines:
    return {
        result.engine: [(served.rate, value(served)) for served in result.served]
        for result in report.results
        if result.served
    }


def _axes(lines: Lines, label: str) -> tuple[Axes, list[float]]:
    rates = sorted({rate for points in lines.values() for rate, _ in points})
    axes = add_axes(new_figure(WIDTH, 320), left=64, right=LABELS, bottom=46, top=12)
    axes.set(xscale="log", xlabel="requests per second", ylabel=label)
    axes.set_xlim(min(rates) / 1.25, max(rates) * 1.25)
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.xaxis.set_minor_formatter(NullFormatter())
    return axes, rates


def _picture(
    report: Report, axes: Axes, lines: Lines, name: str, title: str, caption: str
) -> Picture:
    label_ends(report, axes, lines)
    rates = sorted({rate for points in lines.values() for rate, _ in points})
    text = (
        f"{axes.get_ylabel()} at {', '.join(f'{rate:g}' for rate in rates)} requests per second: "
        f"{said(report, lines, heights)}."
    )
    figure = axes.get_figure(root=True)
    assert figure
    return Picture(name, title, to_svg(figure, name, title, text), caption)
