"""The commands that read reports: ``bench compare`` and ``bench pages``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt2ja_bench.report import BASELINE, REPORT_FILE, read_report
from gpt2ja_bench.reporting.compare import compare
from gpt2ja_bench.reporting.units import significant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpt2ja_bench.report import Report
    from gpt2ja_bench.reporting.compare import Change, Comparison

_HEADER = ("engine", "workload", "measure", "change", "interval of 99 %", "")
_REPORT = click.Path(path_type=Path)


@click.command("compare")
@click.argument("old", type=_REPORT)
@click.argument("new", type=_REPORT)
@click.option(
    "--threshold",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Percent that a speed may lose.",
)
def compare_command(old: Path, new: Path, threshold: float) -> int:
    """Say what got faster or slower from OLD to NEW, each a report.json or its directory.

    The exit code is 1 if something became slower by more than the threshold beyond the noise,
    failed, or gives a wrong output now.
    """
    comparison = compare(_read(old), _read(new), threshold)
    for warning in comparison.warnings:
        click.echo(f"warning: not comparable: {warning}", err=True)
    if comparison.as_ratios:
        click.echo(f"warning: ratios to {BASELINE} are compared instead of speeds", err=True)
    for line in _lines(comparison, threshold):
        click.echo(line)
    return 1 if comparison.regressions else 0


@click.command("pages")
@click.argument("report", type=_REPORT)
@click.option("--output", type=_REPORT, help="Directory.  [default: the report's]")
def pages_command(report: Path, output: Path | None) -> None:
    """Write report.md and report.html from REPORT, a report.json or its directory."""
    from gpt2ja_bench.reporting.pages import write_pages

    content = _read(report)
    directory = output or (report if report.is_dir() else report.parent)
    for path in write_pages(directory, content):
        click.echo(path)


def _read(path: Path) -> Report:
    return read_report(path / REPORT_FILE if path.is_dir() else path)


def _lines(comparison: Comparison, threshold: float) -> Iterator[str]:
    shown = [c for c in comparison.changes if c.verdict not in ("same", "unsure")]
    if shown:
        rows = [_HEADER, *map(_row, shown)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            yield "  ".join(cells).rstrip()
        yield ""
    count = {
        verdict: sum(change.verdict == verdict for change in comparison.changes)
        for verdict in ("faster", "slower", "regression", "same", "unsure")
    }
    yield (
        f"{len(comparison.changes)} compared: {count['faster']} faster, {count['slower']} slower "
        f"by up to {threshold:g} %, {count['regression']} regressions, {count['same']} within the "
        f"noise, {count['unsure']} with too few samples to tell"
    )
    for line in comparison.skipped:
        yield f"not compared: {line}"


def _row(change: Change) -> tuple[str, ...]:
    verdict = change.verdict.upper() if change.verdict == "regression" else change.verdict
    names = (change.engine, change.workload or "—", change.measure)
    if change.change is None:
        return (*names, "", "", f"{verdict}: {change.reason}")
    found = change.change
    ends = f"{_percent(found.low)} to {_percent(found.high)}"
    interval = "—" if change.verdict == "unsure" else ends
    return (*names, _percent(found.percent), interval, verdict)


def _percent(value: float) -> str:
    return f"{'+' if value >= 0 else '−'}{significant(abs(value), 2)} %"
