"""What servers made of requests that came at rising rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_bench.reporting.document import Row, Table
from gpt2ja_bench.reporting.tables import engine_name, tone
from gpt2ja_bench.reporting.units import milliseconds, significant

if TYPE_CHECKING:
    from gpt2ja_bench.report import Report, Served, Workload

FIRST_TOKEN_LIMIT = 1.0  # seconds to a request's first token, for its goodput
GAP_LIMIT = 0.1  # seconds between its tokens, on average
_COLUMNS = (
    "Engine",
    "Requests/s",
    "Goodput (requests/s)",
    "First token p50 (ms)",
    "p95 (ms)",
    "p99 (ms)",
    "Between tokens p50 (ms)",
    "p95 (ms)",
    "p99 (ms)",
    "Tokens/s",
    "Failed",
    "Server's processor (ms a token)",
    "Client's processor (ms a token)",
)


def within_limits(served: Served) -> float:
    """Share of the requests that were answered within `FIRST_TOKEN_LIMIT` and `GAP_LIMIT`."""
    pairs = zip(served.first_tokens, served.gaps, strict=True)
    met = sum(first <= FIRST_TOKEN_LIMIT and gap <= GAP_LIMIT for first, gap in pairs)
    return met / (len(served.gaps) + served.failed)


def goodput(served: Served) -> float:
    """Requests a second that were answered within the limits (Zhong et al., DistServe, 2024)."""
    return served.rate * within_limits(served)


def first_token(served: Served, percentile: float) -> float:
    """Seconds to the first token of the answered requests."""
    return float(np.percentile(served.first_tokens, percentile))


def serve_table(report: Report, workload: Workload) -> Table:
    """Every server at every rate that it was sent, by rate."""
    rows: list[tuple[float, Row]] = []
    engines = {engine.id: engine for engine in report.engines}
    for result in report.results:
        if result.workload != workload.id:
            continue
        engine = engines[result.engine]
        rows += [
            (served.rate, Row((engine_name(engine), *_cells(served)), tone(engine)))
            for served in result.served
        ]
        if result.status != "ok":
            empty = ("",) * (len(_COLUMNS) - 2)
            reason = f"{result.status}: {result.reason}"
            rows.append((np.inf, Row((engine_name(engine), reason, *empty), "absent")))
    rows.sort(key=lambda pair: pair[0])
    note = (
        f"Requests of {workload.prompt_tokens} tokens for {workload.new_tokens} on average come at "
        f"times drawn from a Poisson process (seed {workload.seed}) and do not wait for answers. "
        f"Goodput: those with the first token within {FIRST_TOKEN_LIMIT:g} s and "
        f"{1e3 * GAP_LIMIT:g} ms between tokens on average. Higher rates are left out where most "
        "requests missed that. One client sends all requests from the same processors, at most "
        f"{workload.rows} run at once."
    )
    return Table(_COLUMNS, tuple(row for _, row in rows), title=workload.title, note=note)


def _cells(served: Served) -> tuple[str, ...]:
    return (
        f"{served.rate:g}",
        significant(goodput(served)),
        *(milliseconds(first_token(served, percentile)) for percentile in (50, 95, 99)),
        *map(milliseconds, served.between_tokens),
        significant(served.tokens / served.seconds),
        str(served.failed),
        milliseconds(served.server_seconds / served.tokens),
        milliseconds(served.client_seconds / served.tokens),
    )
