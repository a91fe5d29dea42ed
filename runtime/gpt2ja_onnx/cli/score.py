"""``gpt2ja-onnx score``."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gpt2ja_onnx.cli.common import (
    bundle_options,
    count_lines,
    load,
    open_output,
    progress,
    read_lines,
    to_json,
)

if TYPE_CHECKING:
    from pathlib import Path

_TEXTS_AT_ONCE = 64


@click.command("score")
@click.argument("texts", nargs=-1, metavar="[TEXT ...]")
@bundle_options
@click.option("--input", "source", metavar="FILE|-", help="Texts, one a line.")
@click.option("--output", default="-", metavar="FILE|-", help="[default: stdout]")
@click.option(
    "--format", "format_", type=click.Choice(["text", "jsonl"]), default="text", show_default=True
)
def command(
    texts: tuple[str, ...],
    model: Path | None,
    threads: int | None,
    device: str,
    source: str | None,
    output: str,
    format_: str,
) -> None:
    """Log-probability and perplexity of texts.

    The first token of a text has nothing before it and is not scored; a text longer than the
    context is read in windows that overlap by half.
    """
    if not texts and source is None:
        raise click.UsageError("give a TEXT, or texts with --input")
    if texts and source is not None:
        raise click.UsageError("give TEXTs or --input, not both")
    total = len(texts) if source is None else count_lines(source)
    pending = iter(texts) if source is None else (line for _, line in read_lines(source))
    with (
        load(model, threads=threads, device=device) as loaded,
        open_output(output) as file,
        progress(total) as advance,
    ):
        while batch := list(itertools.islice(pending, _TEXTS_AT_ONCE)):
            for score in loaded.score(batch):
                if format_ == "jsonl":
                    file.write(to_json(asdict(score)) + "\n")
                else:
                    figure = "-" if score.perplexity is None else f"{score.perplexity:.2f}"
                    file.write(f"{figure}\t{score.logprob:.4f}\t{score.tokens}\t{score.text}\n")
            advance(len(batch))
