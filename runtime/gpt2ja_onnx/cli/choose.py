"""``gpt2ja-onnx choose``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from gpt2ja_onnx.calls.choosing import NORMALIZATIONS
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
from gpt2ja_onnx.errors import Gpt2jaError, PromptError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpt2ja_onnx.calls.choosing import Normalize
    from gpt2ja_onnx.cli.inputs import Line
    from gpt2ja_onnx.device.choice import DeviceChoice
    from gpt2ja_onnx.results import ChoiceResult

_HEADER = "score\tlogprob\ttokens\toption\tprompt"
_FIELDS = {"prompt", "options", "id", "metadata"}


class _Item(NamedTuple):
    """A prompt with its options, or what is wrong with it; `handed` comes back with the result."""

    prompt: str
    options: list[str] | PromptError
    handed: dict[str, Any]


@click.command("choose")
@click.argument("prompt", required=False)
@click.option("--option", "options", multiple=True, metavar="TEXT", help="A continuation; repeat.")
@click.option(
    "--input",
    "source",
    metavar="FILE|-",
    help="JSON lines: objects with 'prompt' and 'options'; 'id' and 'metadata' come back.",
)
@click.option("--encoding", default="utf-8", show_default=True, help="Of the input.")
@click.option(
    "--normalize",
    type=click.Choice(NORMALIZATIONS),
    help="What options are compared by: their log-probability, that per token or per character, or "
    "less that behind the unconditional prompt.  [default: tokens]",
)
@click.option(
    "--unconditional", metavar="TEXT", help="That prompt; implies --normalize unconditional."
)
@click.option("--output", default="-", metavar="FILE|-", help="[default: stdout]")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "jsonl"]),
    help="Columns under a header, the best option first, or a JSON line for each prompt.  "
    "[default: text, or what the output's name says]",
)
@bundle_options
def command(
    prompt: str | None,
    options: tuple[str, ...],
    model: Path | None,
    threads: int | None,
    device: DeviceChoice,
    kernels: str,
    quiet: bool,
    source: str | None,
    encoding: str,
    normalize: Normalize | None,
    unconditional: str | None,
    output: str,
    force: bool,
    format_: str | None,
) -> int:
    """Say which of several continuations of a prompt is the likeliest.

    Prompt and option are encoded together; log-probabilities (in nats) are those of `score`.
    """
    if (prompt is None) == (source is None) or (source is None) != bool(options):
        raise click.UsageError("give a PROMPT with --option texts, or --input")
    if normalize is None:
        normalize = "tokens" if unconditional is None else "unconditional"
    if (normalize == "unconditional") != (unconditional is not None):
        raise click.UsageError("--normalize unconditional and --unconditional go together")
    kind = chosen_format(format_, output)
    lines = None if source is None else read_lines(source, encoding)
    check_output(output, source, force=force)
    total = 1 if source is None else count_lines(source)
    items = iter([_Item(prompt or "", list(options), {})]) if lines is None else _items(lines)
    failed = False
    with (
        load(model, quiet=quiet, threads=threads, device=device, kernels=kernels) as loaded,
        open_output(output) as file,
        progress(output, total, quiet=quiet) as advance,
    ):
        if kind == "text":
            file.write(_HEADER + "\n")
        for item in items:
            try:
                if isinstance(item.options, PromptError):
                    raise item.options
                choice = loaded.choose(
                    item.prompt, item.options, normalize=normalize, unconditional=unconditional
                )
            except Gpt2jaError as error:
                if source is None:
                    raise
                failed = True
                if kind == "text":
                    click.echo(f"error: line {item.handed['line']}: {error}", err=True)
                else:
                    file.write(to_json({"error": str(error)} | item.handed) + "\n")
            else:
                content = choice.to_dict() | item.handed
                file.write(_columns(choice) if kind == "text" else to_json(content) + "\n")
            advance(1)
    return 1 if failed else 0


def _items(lines: Iterator[Line]) -> Iterator[_Item]:
    for number, line in lines:
        handed: dict[str, Any] = {"line": number}
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield _Item("", PromptError(f"is not JSON: {error}"), handed)
            continue
        if isinstance(content, dict):
            handed |= {name: content[name] for name in ("id", "metadata") if name in content}
        yield _item(content, handed)


def _item(content: object, handed: dict[str, Any]) -> _Item:
    if not isinstance(content, dict):
        return _Item("", PromptError("must be an object with 'prompt' and 'options'"), handed)
    if unknown := sorted(content.keys() - _FIELDS):
        known = ", ".join(sorted(_FIELDS))
        message = f"has an unknown field {unknown[0]!r:.80}; known: {known}"
        return _Item("", PromptError(message), handed)
    prompt, options = content.get("prompt"), content.get("options")
    if not isinstance(prompt, str):
        return _Item("", PromptError("'prompt' must be a string"), handed)
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        return _Item("", PromptError("'options' must be a list of strings"), handed)
    return _Item(prompt, options, handed)


def _columns(choice: ChoiceResult) -> str:
    best_first = sorted(choice.options, key=lambda option: -option.score)
    return "".join(
        f"{option.score:.4f}\t{option.logprob:.4f}\t{option.tokens}\t"
        f"{escaped(option.option)}\t{escaped(choice.prompt)}\n"
        for option in best_first
    )
