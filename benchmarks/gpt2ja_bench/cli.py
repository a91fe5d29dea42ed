"""``gpt2ja-onnx bench``."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from gpt2ja_bench.cli_reports import compare_command, pages_command
from gpt2ja_bench.report import BASELINE, REPORT_FILE, read_report
from gpt2ja_bench.running.engines.table import CUDA_ENGINES, ENGINES
from gpt2ja_bench.running.shape import PUBLISHED, Shape
from gpt2ja_bench.running.workloads import PLANS, QUICK_PLANS, Plan
from gpt2ja_onnx.bundle.demo import demo_checkpoint
from gpt2ja_onnx.device.threads import available_threads

if TYPE_CHECKING:
    from gpt2ja_bench.running.engines.spec import EngineSpec

_QUICK = (BASELINE, "ctranslate2-int8", "llama.cpp-q8_0", "ours-int8", "ours-fp16")


@click.group("bench", invoke_without_command=True)
@click.option(
    "--model", "models", type=click.Path(path_type=Path), multiple=True,
    help="A bundle to time beside the engines; may be given several times.",
)  # fmt: skip
@click.option(
    "--checkpoint", type=click.Path(path_type=Path),
    help="Hugging Face checkpoint.  [default: random weights of the published model's size]",
)  # fmt: skip
@click.option(
    "--engines",
    help="Ids or names as in a report, with commas.  [default: all but this project's with "
    "standard kernels]",
)
@click.option("--workloads", help="Their names, with commas.  [default: all]")
@click.option("--threads", type=click.IntRange(min=1), help="Of every engine.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--quick", is_flag=True, help="A few engines and workloads, in two minutes.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("bench"), show_default=True,
    help="Directory of the report.",
)  # fmt: skip
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Time this project beside PyTorch and other engines, and write a report."""
    if ctx.invoked_subcommand is None:
        _run(**options)


command.add_command(compare_command)
command.add_command(pages_command)


def _run(
    models: tuple[Path, ...],
    checkpoint: Path | None,
    engines: str | None,
    workloads: str | None,
    threads: int | None,
    device: Any,
    quick: bool,
    output: Path,
) -> None:
    # Imported here: what needs numpy and matplotlib should not slow --help.
    from gpt2ja_bench.reporting.pages import write_pages
    from gpt2ja_bench.running.runner import Runner, RunSettings, check_writable
    from gpt2ja_bench.running.stage import Stage

    check_writable(output)
    known = ENGINES if device == "cpu" else CUDA_ENGINES
    default = _QUICK if quick else tuple(spec.id for spec in known if spec.by_default)
    chosen = _choose(known, engines, "engine", default)
    if chosen[0].id != BASELINE:
        chosen = (known[0], *(spec for spec in chosen if spec.id != BASELINE))
    chosen += tuple(_bundle_engine(path) for path in models)
    plans = _choose(QUICK_PLANS if quick else PLANS, workloads, "workload")
    with tempfile.TemporaryDirectory(prefix="gpt2ja-bench.") as directory:
        if checkpoint is None:
            from gpt2ja_bench.making.synthetic_checkpoint import make_checkpoint

            click.echo("making a checkpoint with random weights …", err=True)
            make_checkpoint(Path(directory), PUBLISHED)
        settings = RunSettings(
            engines=chosen,
            plans=plans,
            stage=Stage(
                checkpoint=checkpoint or Path(directory),
                check_checkpoint=checkpoint or demo_checkpoint(),
                shape=PUBLISHED if checkpoint is None else Shape.read(checkpoint),
                threads=threads or available_threads(),
                device=device,
            ),
            checkpoint_name="synthetic" if checkpoint is None else str(checkpoint),
            quick=quick,
        )
        with _Progress(settings.cost) as progress:
            try:
                report = Runner(settings, output, progress.finished).run()
            except KeyboardInterrupt:
                write_pages(output, read_report(output / REPORT_FILE))
                click.echo(f"\ninterrupted; what was measured is in {output}", err=True)
                raise
    write_pages(output, report)
    failed = sum(engine.status == "failed" for engine in report.engines)
    click.echo(f"wrote {output}/report.json, report.md and report.html")
    if failed:
        click.echo(f"{failed} engines failed; the report says why", err=True)


def _choose(known: tuple[Any, ...], names: str | None, what: str, default: Any = None) -> Any:
    by_name = {item.workload.id if isinstance(item, Plan) else item.id: item for item in known}
    ids = {_title(item).lower(): name for name, item in by_name.items()}
    ids |= {name.replace("ours", "gpt2ja-onnx", 1): name for name in by_name}  # the short names
    if names is None:
        return tuple(item for name, item in by_name.items() if default is None or name in default)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    wanted = [ids.get(name.lower(), name) for name in wanted]
    unknown = [name for name in wanted if name not in by_name]
    if unknown or not wanted:
        raise click.UsageError(
            f"no {what} {', '.join(unknown) or names!r}; there are {', '.join(by_name)}"
        )
    return tuple(item for name, item in by_name.items() if name in wanted)


def _title(item: Any) -> str:
    """The name that a report prints."""
    title: str = item.workload.title if isinstance(item, Plan) else item.title
    return title


def _bundle_engine(path: Path) -> EngineSpec:
    from gpt2ja_onnx.bundle.manifest import read_manifest

    manifest = read_manifest(path)
    spec = next(s for s in (*ENGINES, *CUDA_ENGINES) if s.id == f"ours-{manifest.precision}")
    return dataclasses.replace(
        spec, id=path.name, title=f"bundle {path.name}", bundle=path.resolve()
    )


class _Progress:
    """A bar with the time that is left on a terminal; otherwise a line a step."""

    def __init__(self, total: float) -> None:
        self._total = total
        self._done = 0.0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if sys.stderr.isatty():
            click.echo(err=True)

    def finished(self, name: str, cost: float) -> None:
        """Show that `name` is finished."""
        self._done += cost
        if not name:
            return
        share = min(self._done / self._total, 1.0)
        seconds = time.monotonic() - self._started
        left = seconds / share - seconds
        line = f"{share:4.0%}  {left / 60:3.0f} min left  {name}"
        if sys.stderr.isatty():
            filled = round(20 * share)
            line = f"\r\033[K{'█' * filled}{'░' * (20 - filled)} {line}"
        click.echo(line, err=True, nl=not sys.stderr.isatty())
