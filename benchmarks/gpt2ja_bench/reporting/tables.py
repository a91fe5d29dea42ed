"""The tables of a report: engines, an overview, and one for each workload."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_bench.report import BASELINE
from gpt2ja_bench.reporting import statistics
from gpt2ja_bench.reporting.document import Row, Table, Tone
from gpt2ja_bench.reporting.units import (
    NONE,
    mebibytes,
    megabytes,
    milliseconds,
    signed_percent,
    significant,
    with_interval,
)

if TYPE_CHECKING:
    from gpt2ja_bench.report import Check, EngineReport, Report, Result, Workload

WRONG = "WRONG OUTPUT"
OF_CALLS = "†"


def engines_table(report: Report) -> Table:
    """Every engine that was measured, with what it is and whether it says what PyTorch says."""
    memory: dict[str, int] = {}
    for result in report.results:
        memory[result.engine] = max(memory.get(result.engine, 0), result.peak_memory)
    rows = []
    for engine in report.engines:
        if engine.status != "ok":
            continue
        load = float(np.median(engine.load)) if engine.load else None
        cells = (
            engine_name(engine),
            statistics.short_name(engine),
            engine.library,
            engine.precision,
            _checked(engine),
            *_check(engine.check),
            megabytes(engine.model_bytes),
            milliseconds(load),
            mebibytes(memory.get(engine.id, 0)),
        )
        rows.append(Row(cells, tone(engine)))
    columns = (
        "Engine",
        "Short name",
        "Library",
        "Precision",
        "Says what PyTorch says",
        "Greedy tokens equal",
        "Perplexity change",
        "On disk (MB)",
        "Load (ms)",
        "Peak memory (MiB)",
    )
    note = (
        "Every engine is held against PyTorch in fp32 before it is timed: the share of greedily "
        "generated tokens before the first that differs, and the change of the perplexity. Peak "
        "memory is the largest over all workloads."
    )
    return Table(columns, tuple(rows), text_columns=5, note=note)


def overview_table(report: Report) -> Table:
    """Every engine that was measured against every workload, as ratios to PyTorch."""
    workloads = [workload for workload in report.workloads if workload.kind != "serve"]
    rows = []
    for engine in report.engines:
        if engine.status == "ok":
            cells = [_ratio(report, engine, workload) for workload in workloads]
            rows.append(Row((engine_name(engine), *cells), tone(engine)))
    note = (
        "By the decoding step where a workload has steps, by the whole call otherwise; by the new "
        "process to its first token for a cold start. Intervals are in the tables below."
    )
    columns = ("Engine", *(workload.title for workload in workloads))
    return Table(columns, tuple(rows), note=note)


def workload_table(report: Report, workload: Workload) -> Table:
    """What every engine gave on a workload, fastest first; those without a result last."""
    rows: list[tuple[float, Row]] = []
    columns = _COLUMNS[workload.kind]
    marked = False
    for engine in report.engines:
        result = statistics.find_result(report, engine.id, workload.id)
        if engine.status != "ok" or result is None:
            continue
        if result.status != "ok" or not result.samples:
            reason = f"{result.status}: {result.reason or 'no sample was taken'}"
            empty = ("",) * (len(columns) - 2)
            rows.append((np.inf, Row((engine_name(engine), reason, *empty), "absent")))
            continue
        cells = _cells(report, engine, workload, result)
        marked |= any(OF_CALLS in cell for cell in cells)
        total = statistics.duration(result)
        # Without steps an engine is ordered by its call, spread over the tokens of a row.
        step = statistics.step_time(result) if workload.kind == "generate" else None
        assert total
        cost = step.value if step else total.value / max(1, workload.new_tokens)
        rows.append((cost, Row((engine_name(engine), *cells), tone(engine))))
    rows.sort(key=lambda pair: pair[0])
    notes = [f"{OF_CALLS} by whole calls: one of the two tells no steps."] if marked else []
    if workload.peers is not None:
        notes.append(
            "Of the other projects, only the fastest engines ran this, in int8 where they have it."
        )
    ordered = tuple(row for _, row in rows)
    return Table(columns, ordered, title=workload.title, note=" ".join(notes))


def engine_name(engine: EngineReport) -> str:
    """The title, with a warning where the output is wrong."""
    return f"{engine.title} — {WRONG}" if statistics.is_wrong(engine) else engine.title


def tone(engine: EngineReport) -> Tone:
    """How an engine's rows stand out."""
    if statistics.is_wrong(engine):
        return "wrong"
    return "ours" if statistics.is_ours(engine) else ""


_COLUMNS = {
    "generate": (
        "Engine",
        "Tokens/s",
        "Tokens/s per row",
        "First token (ms)",
        "Step p50 (ms)",
        "p95 (ms)",
        "p99 (ms)",
        "× PyTorch",
        "Of the floor",
        "Peak memory (MiB)",
    ),
    "queue": ("Engine", "Tokens/s", "Call (s)", "× PyTorch", "Peak memory (MiB)"),
    "score": ("Engine", "Tokens/s", "Call (s)", "× PyTorch", "Peak memory (MiB)"),
    "cold_start": ("Engine", "To the first token (s)", "× PyTorch", "Peak memory (MiB)"),
}


def _cells(
    report: Report, engine: EngineReport, workload: Workload, result: Result
) -> tuple[str, ...]:
    ratio = with_interval(statistics.baseline_ratio(report, result))
    ratio += _mark(report, workload, result)
    memory = mebibytes(result.peak_memory)
    if workload.kind == "cold_start":
        return (with_interval(statistics.duration(result)), ratio, memory)
    speed = statistics.throughput(result)
    if workload.kind != "generate":
        return (with_interval(speed), with_interval(statistics.duration(result)), ratio, memory)
    latency, step = statistics.latency(result), statistics.step_time(result)
    floor = statistics.floor(report.machine, engine, workload)
    assert speed
    return (
        with_interval(speed),
        significant(speed.value / workload.rows),
        with_interval(statistics.first_token(result), 1e3),
        with_interval(step, 1e3),
        milliseconds(latency.p95 if latency else None),
        milliseconds(latency.p99 if latency else None),
        ratio,
        f"{100 * floor / step.value:.0f} %" if floor and step else NONE,
        memory,
    )


def _ratio(report: Report, engine: EngineReport, workload: Workload) -> str:
    result = statistics.find_result(report, engine.id, workload.id)
    if result is None:
        return NONE
    if result.status != "ok":
        return result.status
    ratio = statistics.baseline_ratio(report, result)
    return f"{significant(ratio.value)}×{_mark(report, workload, result)}" if ratio else NONE


def _mark(report: Report, workload: Workload, result: Result) -> str:
    baseline = statistics.find_result(report, BASELINE, workload.id)
    calls = baseline and statistics.compares_calls(result, baseline, workload.kind)
    return OF_CALLS if calls else ""


def _checked(engine: EngineReport) -> str:
    if engine.id == BASELINE:
        return "is the reference"
    if engine.check is None:
        return "not checked"
    return f"NO — {WRONG}" if statistics.is_wrong(engine) else "yes"


def _check(check: Check | None) -> tuple[str, str]:
    if check is None:
        return NONE, NONE
    agreement = check.greedy_agreement
    greedy = NONE if agreement is None else f"{100 * agreement:.0f} % of {check.greedy_tokens}"
    return greedy, signed_percent(statistics.perplexity_change(check))
