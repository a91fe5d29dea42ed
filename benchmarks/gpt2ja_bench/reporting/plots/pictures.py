"""The pictures of a report's page, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_bench.reporting import statistics
from gpt2ja_bench.reporting.plots.growth import step_by_positions, step_by_rows
from gpt2ja_bench.reporting.plots.roofline import roofline
from gpt2ja_bench.reporting.plots.serving import serve_first_token, serve_goodput
from gpt2ja_bench.reporting.plots.speed import quality, speed_by_batch
from gpt2ja_bench.reporting.plots.steps import step_latency
from gpt2ja_bench.reporting.plots.style import drawing

if TYPE_CHECKING:
    from gpt2ja_bench.report import Report
    from gpt2ja_bench.reporting.document import Picture


def make_plots(report: Report) -> list[Picture]:
    """Every plot that the report has the figures for."""
    ladder = statistics.batch_ladder(report)
    ends = ladder if len(ladder) < 2 else [ladder[0], ladder[-1]]
    with drawing():
        found = [
            speed_by_batch(report),
            roofline(report),
            step_by_positions(report),
            step_by_rows(report),
            serve_goodput(report),
            serve_first_token(report),
            *(quality(report, workload) for workload in ends),
            *(step_latency(report, workload) for workload in ends),
        ]
    return [plot for plot in found if plot]
