"""A report turned into the document that report.md and report.html show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_bench.reporting import statistics
from gpt2ja_bench.reporting.document import Document, Row, Section, Table
from gpt2ja_bench.reporting.limits import integer_rate, kernels_table, limits_table
from gpt2ja_bench.reporting.serving import serve_table
from gpt2ja_bench.reporting.shortfalls import shortfalls
from gpt2ja_bench.reporting.tables import engines_table, overview_table, workload_table
from gpt2ja_bench.reporting.units import significant, span, with_interval

if TYPE_CHECKING:
    from gpt2ja_bench.report import Report, Workload

SHORTFALLS_TITLE = "Where this project is not the fastest or the smallest"


def make_document(report: Report) -> Document:
    """Say everything that a report holds, the most needed first."""
    measured = tuple(table for w in report.workloads if (table := _table(report, w)).rows)
    details = [
        Section("Engines", tables=(engines_table(report),)),
        *_left_out(report),
        *_with_rows("Integer steps and the machine's limits", limits_table(report)),
        *_with_rows("This project's kernels", kernels_table(report)),
        Section(
            "Workloads",
            paragraphs=(_READING,),
            tables=measured,
        ),
        _how(report),
    ]
    return Document(
        title="gpt2ja-onnx benchmark",
        lead=_lead(report),
        warnings=_warnings(report),
        summary=(
            Section(
                "Times as fast as PyTorch",
                bullets=_headlines(report),
                tables=(overview_table(report),),
            ),
            _shortfalls(report),
        ),
        details=tuple(details),
    )


_READING = (
    "Medians, with their intervals of 95 % confidence in brackets: [low–high]. A step gives every "
    "row one token. “× PyTorch” is the median of the ratios within each round, in which the "
    "engines ran one after another. “Of the floor” is the least time that the machine's measured "
    "bandwidth and rates of products allow a step, as a share of the time that it took. Wide "
    "tables scroll sideways."
)

# To be dropped with the first report of a GPU in benchmarks/results.
_NO_CUDA = " It says nothing of CUDA, on which this project's figures are still to be taken."


def _lead(report: Report) -> str:
    machine, settings = report.machine, report.settings
    count = sum(engine.status == "ok" for engine in report.engines)
    return (
        f"{count} engines on {_counted(len(report.workloads), 'workload')}, measured on "
        f"{machine.name} with {_counted(settings.threads, 'thread')}, "
        f"on {settings.device.upper()}, {report.created[:10]}. {_model(report)}"
        f"{_NO_CUDA if settings.device == 'cpu' else ''}"
    )


def _model(report: Report) -> str:
    settings = report.settings
    size = f"{settings.parameters / 1e6:.0f} million parameters"
    if settings.checkpoint == "synthetic":
        return (
            f"The model has the real shape ({size}) and random weights: they do not change the "
            "speed, but perplexities of it say less about quality than those of a trained model."
        )
    return f"The model is {settings.checkpoint} ({size})."


def _warnings(report: Report) -> tuple[str, ...]:
    found = []
    if not report.complete:
        have = {(r.engine, r.workload) for r in report.results}
        found.append(
            "This report is partial: the run was interrupted after "
            f"{span(report.seconds)}, with {len(have)} measurements begun."
        )
    if report.settings.quick:
        found.append("This is a quick run: fewer repeats and workloads, so wider intervals.")
    wrong = [engine.title for engine in report.engines if statistics.is_wrong(engine)]
    if wrong:
        found.append(
            f"Wrong output: {', '.join(wrong)} did not say what PyTorch says. "
            "The speed of a wrong engine means nothing; it counts in no comparison."
        )
    return tuple(found)


def _headlines(report: Report) -> tuple[str, ...]:
    ladder = statistics.batch_ladder(report)
    lines = []
    for engine in report.engines:
        if not statistics.is_ours(engine) or engine.status != "ok" or statistics.is_wrong(engine):
            continue
        parts = []
        for workload in ladder:
            result = statistics.find_result(report, engine.id, workload.id)
            ratio = statistics.baseline_ratio(report, result) if result else None
            if ratio:
                parts.append(f"{with_interval(ratio)} at {_counted(workload.rows, 'row')}")
        if parts:
            lines.append(f"{engine.title}: {', '.join(parts)}.")
    return tuple(lines)


def _shortfalls(report: Report) -> Section:
    found = shortfalls(report)
    if found:
        return Section(SHORTFALLS_TITLE, bullets=tuple(found))
    measured = [engine for engine in report.engines if engine.status == "ok"]
    peers = [engine.title for engine in measured if not statistics.is_ours(engine)]
    if len(peers) < len(measured):
        others = ", ".join(peers) if len(peers) <= 3 else f"the {len(peers)} other engines"
        text = f"Nowhere beyond the noise; compared with {others or 'nothing else'}."
    else:
        text = "This project was not measured here."
    return Section(SHORTFALLS_TITLE, (text,))


def _table(report: Report, workload: Workload) -> Table:
    serves = workload.kind == "serve"
    return serve_table(report, workload) if serves else workload_table(report, workload)


def _with_rows(title: str, table: Table) -> list[Section]:
    return [Section(title, tables=(table,))] if table.rows else []


def _left_out(report: Report) -> list[Section]:
    rows = tuple(
        Row((engine.title, engine.library or "—", engine.status, engine.reason), "absent")
        for engine in report.engines
        if engine.status != "ok"
    )
    if not rows:
        return []
    columns = ("Engine", "Library", "Status", "Reason")
    return [Section("Engines that were not measured", tables=(Table(columns, rows, "", 4),))]


def _how(report: Report) -> Section:
    machine, settings = report.machine, report.settings
    sampling = ", ".join(f"{name} {value}" for name, value in settings.sampling.items())
    shape = ", ".join(f"{name} {value:,}" for name, value in settings.shape.items())
    facts = {
        "Processor": machine.name,
        "Instruction sets": " ".join(machine.flags) or "—",
        "Cores": f"{machine.cores}, {settings.threads} threads for every engine",
        "Memory": f"{machine.memory / 2**30:.1f} GiB",
        "Read bandwidth, measured": f"{significant(machine.bandwidth / 1e9)} GB/s",
        "Matrix rate, measured": f"{significant(machine.matrix_rate / 1e9)} GFLOP/s",
        "Integer rate, measured": integer_rate(machine),
        "System": machine.system,
        "Model": f"{settings.checkpoint}: {shape}, {settings.parameters:,} parameters",
        "Sampling": sampling or "—",
        "Timed": settings.timed,
        "Repeats": f"{settings.repeats}, interleaved, after one that warms up",
        "Run": f"{report.created}, {span(report.seconds)}",
        "Versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
    }
    rows = tuple(Row(item) for item in facts.items())
    return Section("How it was measured", tables=(Table(("What", "Value"), rows, "", 2),))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
