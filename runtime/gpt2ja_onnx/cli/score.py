"""``gpt2ja-onnx score``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gpt2ja_onnx.cli.inputs import count_lines, read_lines
from gpt2ja_onnx.cli.loading import load
from gpt2ja_onnx.cli.options import bundle_options
from gpt2ja_onnx.cli.outputs import (
    check_output,
    chosen_format,
    escaped,
    open_output,
    progress,
    to_json,
)
from gpt2ja_onnx.errors import PromptError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpt2ja_onnx.device.choice import DeviceChoice
    from gpt2ja_onnx.results import Score

_TEXTS_AT_ONCE = 64
_HEADER = "perplexity\tlogprob\ttokens\ttext"


@click.command("score")
@click.argument("texts", nargs=-1, metavar="[TEXT ...]")
@click.option("--input", "source", metavar="FILE|-", help="Texts, one a line.")
@click.option("--encoding", default="utf-8", show_default=True, help="Of the input.")
@click.option("--output", default="-", metavar="FILE|-", help="[default: stdout]")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "jsonl"]),
    help="Columns under a header, or JSON lines with each token's log-probability.  [default: "
    "text, or what the output's name says]",
)
@bundle_options
def command(
    texts: tuple[str, ...],
    model: Path | None,
    threads: int | None,
    device: DeviceChoice,
    kernels: str,
    quiet: bool,
    source: str | None,
    encoding: str,
    output: str,
    force: bool,
    format_: str | None,
) -> None:
    """Log-probability (in nats) and perplexity of texts.

    The first token of a text has nothing before it and is not scored; a text longer than the
    context is read in windows that overlap by half.
    """
    if not texts and source is None:
        raise click.UsageError("give a TEXT, or texts with --input")
    if texts and source is not None:
        raise click.UsageError("give TEXTs or --input, not both")
    kind = chosen_format(format_, output)
    lines = None if source is None else read_lines(source, encoding)
    check_output(output, source, force=force)
    total = len(texts) if source is None else count_lines(source)
    pending = iter(texts) if lines is None else (line.text for line in lines)
    at_once = 1 if source == "-" else _TEXTS_AT_ONCE  # a pipe's lines are answered one by one
    with (
        load(model, quiet=quiet, threads=threads, device=device, kernels=kernels) as loaded,
        open_output(output) as file,
        progress(output, total, quiet=quiet) as advance,
    ):
        if kind == "text":
            file.write(_HEADER + "\n")
        for batch, error in _batches(pending, at_once):
            for score in loaded.score(batch):
                if kind == "text":
                    file.write(_columns(score) + "\n")
                    continue
                pieces = [loaded.tokenizer.piece(token) for token in score.token_ids]
                file.write(to_json(score.to_dict() | {"token_texts": pieces}) + "\n")
            advance(len(batch))
            if error is not None:
                raise error


def _batches(texts: Iterator[str], size: int) -> Iterator[tuple[list[str], PromptError | None]]:
    """Some texts at once; the last batch comes with the error that ended the input."""
    batch: list[str] = []
    try:
        for text in texts:
            batch.append(text)
            if len(batch) == size:
                yield batch, None
                batch = []
    except PromptError as error:
        yield batch, error
        return
    if batch:
        yield batch, None


def _columns(score: Score) -> str:
    figure = "-" if score.perplexity is None else f"{score.perplexity:.2f}"
    return f"{figure}\t{score.logprob:.4f}\t{score.tokens}\t{escaped(score.text)}"
