"""``gpt2ja-onnx generate``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

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
from gpt2ja_onnx.errors import Gpt2jaError, PromptError
from gpt2ja_onnx.settings.config import GenerationConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from gpt2ja_onnx.model import GPT2Ja
    from gpt2ja_onnx.results import GenerationResult

    Item = tuple[str, GenerationConfig] | Gpt2jaError


@click.command("generate")
@click.argument("prompts", nargs=-1, metavar="[PROMPT ...]")
@bundle_options
@click.option("--input", "source", metavar="FILE|-", help="Prompts, one a line, or JSON lines.")
@click.option("--output", default="-", metavar="FILE|-", help="[default: stdout]")
@click.option(
    "--format", "format_", type=click.Choice(["text", "jsonl"]), default="text", show_default=True
)
@click.option("--stream", is_flag=True, help="Show the text of one prompt while it comes.")
@click.option("--max-new-tokens", type=int, help="[default: the bundle's, as all settings]")
@click.option("--min-new-tokens", type=int)
@click.option("--top-k", type=int, help="Keep the k likeliest tokens; 0 keeps all.")
@click.option("--top-p", type=float, help="Keep the likeliest tokens up to this probability.")
@click.option("--temperature", type=float)
@click.option("--min-p", type=float)
@click.option("--typical-p", type=float)
@click.option("--repetition-penalty", type=float)
@click.option("--no-repeat-ngram-size", type=int)
@click.option("--num-return-sequences", type=int, help="Texts a prompt.")
@click.option("--greedy", is_flag=True, help="Take the likeliest tokens instead of sampling.")
@click.option("--num-beams", type=int, help="Beam search; with --greedy nothing is drawn in it.")
@click.option("--length-penalty", type=float, help="Above 0 favours long texts of a beam search.")
@click.option(
    "--early-stopping",
    type=click.Choice(["true", "false", "never"]),
    callback=lambda context, option, value: {"true": True, "false": False}.get(value, value),
    help="When a beam search ends.",
)
@click.option("--seed", type=int, help="Makes the text repeatable.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; repeatable.")
@click.option("--logprobs", type=int, help="Report log-probabilities of the best N tokens.")
@click.option("--timeout", type=float, help="Seconds a prompt may take.")
@click.option("--batch-size", default=32, show_default=True, help="Texts that run at once.")
@click.option("--max-memory", type=int, metavar="MIB", help="Of the key-value cache.")
@click.option("--verify-hashes", is_flag=True, help="Check the bundle's files first.")
def command(
    prompts: tuple[str, ...],
    model: Path | None,
    threads: int | None,
    device: str,
    source: str | None,
    output: str,
    format_: str,
    stream: bool,
    greedy: bool,
    batch_size: int,
    max_memory: int | None,
    verify_hashes: bool,
    **settings: Any,
) -> int:
    """Continue prompts."""
    if not prompts and source is None:
        raise click.UsageError("give a PROMPT, or prompts with --input")
    if prompts and source is not None:
        raise click.UsageError("give PROMPTs or --input, not both")
    given = {name: value for name, value in settings.items() if value not in (None, ())}
    one = len(prompts) == 1 and given.get("num_return_sequences", 1) == 1
    if stream and not (one and format_ == "text"):
        raise click.UsageError("--stream shows one text of one PROMPT, as text")
    GenerationConfig().override(given)  # a wrong value is told before anything is loaded
    loaded = load(
        model,
        threads=threads,
        device=device,
        batch_size=batch_size,
        max_memory=None if max_memory is None else max_memory * 2**20,
        verify_hashes=verify_hashes,
    )
    with loaded, open_output(output) as file:
        config = loaded.defaults.override({"do_sample": not greedy} | given)
        if stream:
            _stream(loaded, prompts[0], config, file)
            return 0
        total = len(prompts) if source is None else count_lines(source)
        items = _from_arguments(prompts, config) if source is None else _from_file(source, config)
        with progress(total) as advance:
            return _write_all(loaded, items, file, format_, advance)


def _stream(model: GPT2Ja, prompt: str, config: GenerationConfig, file: IO[str]) -> None:
    chunks = model.stream(prompt, config)
    file.write(prompt)
    for chunk in chunks:
        file.write(chunk.text)
        file.flush()
    file.write("\n")


def _from_arguments(prompts: Iterable[str], config: GenerationConfig) -> Iterator[Item]:
    for prompt in prompts:
        yield prompt, config


def _from_file(source: str, config: GenerationConfig) -> Iterator[Item]:
    for number, line in read_lines(source):
        if not line.lstrip().startswith("{"):
            yield line, config
            continue
        try:
            settings = json.loads(line)
            prompt = settings.pop("prompt")
            yield prompt, config.override(settings)
        except KeyError:
            yield PromptError(f"line {number}: has no 'prompt'")
        except (ValueError, TypeError) as error:
            yield PromptError(f"line {number}: {error}")


def _write_all(
    model: GPT2Ja, items: Iterator[Item], file: IO[str], format_: str, advance: Any
) -> int:
    """Write every outcome; return the exit code: 1 if there was an error among them."""
    failed = False
    for outcome in model.generate_many(items):
        advance(1)
        if isinstance(outcome, Gpt2jaError):
            failed = True
            if format_ == "jsonl":
                file.write(to_json({"error": str(outcome)}) + "\n")
            else:
                click.echo(f"error: {outcome}", err=True)
            continue
        for result in outcome:
            if format_ == "jsonl":
                file.write(to_json(_as_dict(result)) + "\n")
            else:
                file.write(f"{result.prompt}{result.text}\n")
    return 1 if failed else 0


def _as_dict(result: GenerationResult) -> dict[str, Any]:
    content = asdict(result)
    if result.logprobs is None:
        del content["logprobs"]
    else:
        content["logprobs"] = [entry._asdict() for entry in result.logprobs]
    return content
