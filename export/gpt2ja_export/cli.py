"""``gpt2ja-onnx export``."""

from __future__ import annotations

import contextlib
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from gpt2ja_onnx.bundle.demo import demo_checkpoint
from gpt2ja_onnx.bundle.manifest import Device, Graph, Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@click.command("export")
@click.argument("paths", nargs=-1, required=True, metavar="[CHECKPOINT] OUTPUT")
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    help="Of the weights.  [default: int8; fp16 for cuda; fp32 for portable]",
)
@click.option("--device", type=click.Choice(get_args(Device)), default="cpu", show_default=True)
@click.option(
    "--graph",
    type=click.Choice(get_args(Graph)),
    default="fused",
    show_default=True,
    help="'portable' keeps Optimum's own graph, for other tools.",
)
@click.option("--verify/--no-verify", default=True, help="Compare with PyTorch.  [default: yes]")
@click.option("--eval-text", type=click.Path(path_type=Path), help="Text for the perplexities.")
@click.option(
    "--calibration-text",
    type=click.Path(path_type=Path),
    help="Text that int8 and int4 are fitted to: a few thousand tokens.",
)
@click.option("--force", is_flag=True, help="Replace OUTPUT, if it is a bundle.")
def command(
    paths: tuple[str, ...], revision: str | None, force: bool, precision: Any, **settings: Any
) -> None:
    """Export CHECKPOINT, a directory or a hub id, to the bundle OUTPUT.

    Without CHECKPOINT, the bundled demo model is exported.
    """
    if len(paths) > 2:
        raise click.UsageError(f"expected [CHECKPOINT] OUTPUT, got {len(paths)} paths")
    if precision is None:
        preferred = "fp16" if settings["device"] == "cuda" else "int8"
        precision = "fp32" if settings["graph"] == "portable" else preferred

    # Imported here: they take seconds, and --help should not.
    from gpt2ja_export.pipeline import ExportSettings, export_bundle
    from gpt2ja_export.verify import as_table

    location = paths[0] if len(paths) == 2 else str(demo_checkpoint())
    output = Path(paths[-1])
    chosen = ExportSettings(precision=precision, **settings)
    with _progress(chosen.steps) as report:
        manifest = export_bundle(
            location, output, chosen, revision=revision, force=force, report=report
        )
    size = sum(path.stat().st_size for path in output.iterdir())
    click.echo(f"wrote {output}: {manifest.precision}, {size / 1e6:.1f} MB")
    if manifest.verification:
        click.echo(as_table(manifest.verification))


@contextlib.contextmanager
def _progress(steps: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """Show on stderr which of the steps runs: a bar on a terminal, else a line for each."""
    if not sys.stderr.isatty():
        numbers = itertools.count(1)
        yield lambda step: click.echo(f"{next(numbers)}/{len(steps)} {step} …", err=True)
        return
    with click.progressbar(
        length=len(steps),
        file=sys.stderr,
        show_eta=False,
        show_percent=False,
        show_pos=True,
        item_show_func=lambda step: step,
    ) as bar:
        yield lambda step: bar.update(1, step)
