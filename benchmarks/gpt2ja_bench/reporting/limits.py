"""What computed this project's figures, and how near integer steps come to the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from gpt2ja_bench.reporting import statistics
from gpt2ja_bench.reporting.document import Row, Table
from gpt2ja_bench.reporting.tables import engine_name, tone
from gpt2ja_bench.reporting.units import NONE, significant

if TYPE_CHECKING:
    from gpt2ja_bench.report import EngineReport, Machine, Report, Workload

_Rate = Literal["bandwidth", "integer_rate"]
_MANY_ROWS = 32  # from which products, not reading, take a step's time


def limits_table(report: Report) -> Table:
    """How near integer steps come to the machine: its memory at few rows, its products at many."""
    ladder = statistics.batch_ladder(report)
    few, many = ladder[:1], [workload for workload in ladder if workload.rows >= _MANY_ROWS][:1]
    rows = []
    for engine in report.engines:
        if not statistics.is_integer(engine) or engine.status != "ok":
            continue
        cells = (
            *(_share(report, engine, w, engine.weight_bytes, "bandwidth") for w in few),
            *(
                _share(report, engine, w, w.rows * engine.step_operations, "integer_rate")
                for w in many
            ),
        )
        rows.append(Row((engine_name(engine), *cells), tone(engine)))
    columns = (
        "Engine",
        *(f"Of the read bandwidth, {_rows(w)}" for w in few),
        *(f"Of the integer rate, {_rows(w)}" for w in many),
    )
    note = (
        "The bytes of weights that a step reads, and the operations of its products with them, a "
        "second of the median step, of what the machine read and multiplied right before the same "
        f"round: {_measured(report, few, 'bandwidth', 'GB/s')}, "
        f"{_measured(report, many, 'integer_rate', 'GOP/s')}. Medians."
    )
    return Table(columns, tuple(rows), note=note)


def kernels_table(report: Report) -> Table:
    """What computed this project's figures."""
    rows = []
    for engine in report.engines:
        if engine.status == "ok" and engine.kernels:
            samples = [s for r in report.results if r.engine == engine.id for s in r.samples]
            calls = sum(sample.native_calls for sample in samples)
            cells = (engine_name(engine), engine.kernels, engine.fingerprint, f"{calls:,}")
            rows.append(Row(cells, tone(engine)))
    columns = ("Engine", "Kernels", "Fingerprint", "Native calls in the timed runs")
    note = (
        "Native calls are counted by the operators themselves. An engine that made fewer than its "
        "graph has, or none where it names native kernels, has failed. Scoring and new processes "
        "are not counted."
    )
    return Table(columns, tuple(rows), text_columns=3, note=note)


def integer_rate(machine: Machine) -> str:
    """The measured rate of integer products with what it was measured by, or why there is none."""
    if not machine.integer_rate:
        return f"none: {machine.kernels}"
    return (
        f"{significant(machine.integer_rate / 1e9)} GOP/s, by this project's {machine.kernels} "
        "kernels from cache"
    )


def _share(
    report: Report,
    engine: EngineReport,
    workload: Workload,
    work: float,
    rate: _Rate,
) -> str:
    result = statistics.find_result(report, engine.id, workload.id)
    steps = statistics.step_times(result) if result else []
    shares = [
        work / step / measured
        for step, measured in zip(steps, _rates(report, workload, rate), strict=False)
        if measured
    ]
    return f"{100 * float(np.median(shares)):.0f} %" if shares else NONE


def _rates(report: Report, workload: Workload, rate: _Rate) -> list[float]:
    """A rate in each round of a workload, or the machine's where only that was measured."""
    found = [getattr(each, rate) for each in report.rates if each.workload == workload.id]
    return found or [getattr(report.machine, rate)] * report.settings.repeats


def _measured(
    report: Report,
    workloads: list[Workload],
    rate: _Rate,
    unit: str,
) -> str:
    rates = [each for workload in workloads for each in _rates(report, workload, rate)]
    if not any(rates):
        return f"no {unit}"
    low, high = (significant(bound / 1e9) for bound in (min(rates), max(rates)))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _rows(workload: Workload) -> str:
    return f"{workload.rows} row{'' if workload.rows == 1 else 's'}"
