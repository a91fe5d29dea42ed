"""``make export-table``: every precision of the CPU exported, with size, time, memory and figures.

Each export is a process of its own, started as a user starts it, verification included. Timed is
the whole process; memory is its peak resident set.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpt2ja_bench.making.synthetic_checkpoint import make_checkpoint
from gpt2ja_bench.reporting.document import Row, Table
from gpt2ja_bench.reporting.markdown import table_lines
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.errors import BenchmarkError, Gpt2jaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt2ja_onnx.bundle.manifest import Manifest, Precision

# What a bundle for the CPU of the published model's shape may take on disk, in megabytes.
SIZE_LIMITS: dict[Precision, int] = {"fp32": 450, "fp16": 226, "int8": 140, "int4": 95}
_FIGURES = {
    "max_logit_difference": "max logit difference",
    "mean_logit_difference": "mean",
    "greedy_agreement": "greedy ids",
    "top_agreement": "top candidate",
    "kl_divergence": "KL divergence",
    "perplexity_change_percent": "perplexity, %",
}


@dataclass(frozen=True, slots=True)
class Export:
    """One export, measured.

    Attributes:
        manifest: Of the bundle.
        size: Of the bundle on disk, in bytes.
        seconds: From the start of the process to its end.
        memory: Peak resident set of the process, in bytes.
    """

    manifest: Manifest
    size: int
    seconds: float
    memory: int


def measure(checkpoint: str, output: Path, precision: Precision, eval_text: Path | None) -> Export:
    """Export `checkpoint` to `output` in a process of its own.

    Raises:
        BenchmarkError: The export failed; what it said is on stderr.
    """
    command = [sys.executable, "-m", "gpt2ja_onnx.cli", "export", checkpoint, str(output)]
    command += ["--precision", precision]
    command += [] if eval_text is None else ["--eval-text", str(eval_text)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchmarkError(f"{precision}: the export ended with code {process.returncode}")
    manifest = read_manifest(output)
    size = sum(path.stat().st_size for path in output.iterdir())
    return Export(manifest, size, seconds, usage.ru_maxrss * 1024)


def make_table(exports: Sequence[Export]) -> Table:
    """The measurements, a row each."""
    rows = []
    for export in exports:
        measured = [export.size / 1e6, export.seconds, export.memory / 2**20]
        figures = [f"{export.manifest.verification[name]:.3g}" for name in _FIGURES]
        rows.append(Row((export.manifest.precision, *(f"{x:.0f}" for x in measured), *figures)))
    columns = ("precision", "MB on disk", "seconds", "peak MiB", *_FIGURES.values())
    return Table(columns, tuple(rows))


@click.command()
@click.argument("checkpoint", required=False)
@click.option("--eval-text", type=click.Path(path_type=Path), help="Text for the perplexities.")
def main(checkpoint: str | None, eval_text: Path | None) -> None:
    """Print the table for CHECKPOINT, or for random weights of the published model's shape."""
    try:
        _run(checkpoint, eval_text)
    except Gpt2jaError as error:
        raise click.ClickException(str(error)) from error


def _run(checkpoint: str | None, eval_text: Path | None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        source = checkpoint or str(Path(directory) / "checkpoint")
        if checkpoint is None:
            make_checkpoint(Path(source))
        exports = []
        for precision in SIZE_LIMITS:
            click.echo(f"{precision}:", err=True)
            exports.append(measure(source, Path(directory) / precision, precision, eval_text))
    click.echo("\n".join(table_lines(make_table(exports))))
    for export in exports:
        limit = SIZE_LIMITS[export.manifest.precision]
        if checkpoint is None and export.size > limit * 1e6:
            raise BenchmarkError(f"{export.manifest.precision}: takes more than {limit} MB")


if __name__ == "__main__":
    main()
