"""``gpt2ja-onnx generate``."""

from __future__ import annotations

import json
import queue
import threading
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import click

from gpt2ja_onnx.cli.inputs import count_lines, read_lines
from gpt2ja_onnx.cli.loading import load
from gpt2ja_onnx.cli.options import (
    GroupedCommand,
    bundle_options,
    check_contradictions,
    given_settings,
    setting_options,
)
from gpt2ja_onnx.cli.outputs import check_output, chosen_format, open_output, progress, to_json
from gpt2ja_onnx.errors import Gpt2jaError, PromptError
from gpt2ja_onnx.settings.config import GenerationConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gpt2ja_onnx.cli.inputs import Line
    from gpt2ja_onnx.device.choice import DeviceChoice
    from gpt2ja_onnx.model import GPT2Ja
    from gpt2ja_onnx.request import Request
    from gpt2ja_onnx.results import GenerationResult


class Item(NamedTuple):
    """A prompt with its settings, or what is wrong with it.

    Attributes:
        prompt: The prompt.
        config: Its settings, or the error.
        handed: What comes back with every result: the input's line, ``id`` and ``metadata``.
    """

    prompt: str
    config: GenerationConfig | Gpt2jaError
    handed: dict[str, Any]


@click.command("generate", cls=GroupedCommand)
@click.argument("prompts", nargs=-1, metavar="[PROMPT ...]")
@click.option(
    "--input",
    "source",
    metavar="FILE|-",
    help="Prompts, one a line, or JSON lines: an object with 'prompt' and any setting; 'id' and "
    "'metadata' come back with its results. Each line is answered as it is done.",
)
@click.option("--encoding", default="utf-8", show_default=True, help="Of the input.")
@click.option("--output", default="-", metavar="FILE|-", help="[default: stdout]")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "jsonl"]),
    help="[default: text, or what the output's name says]",
)
@click.option("--stream", is_flag=True, help="Show the text of one prompt while it comes.")
@click.option("--strict", is_flag=True, help="Stop at the first prompt that fails.")
@bundle_options
@click.option("--batch-size", default=32, show_default=True, help="Texts that run at once.")
@click.option("--max-memory", type=int, metavar="MIB", help="Of the key-value cache.")
@click.option("--verify-hashes", is_flag=True, help="Check the bundle's files first.")
@setting_options
def command(
    prompts: tuple[str, ...],
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
    stream: bool,
    strict: bool,
    batch_size: int,
    max_memory: int | None,
    verify_hashes: bool,
    **settings: Any,
) -> int:
    """Continue prompts.

    Tokens are drawn with the bundle's settings; --greedy takes the likeliest ones.
    """
    if not prompts and source is None:
        raise click.UsageError("give a PROMPT, or prompts with --input")
    if prompts and source is not None:
        raise click.UsageError("give PROMPTs or --input, not both")
    given = given_settings(settings)
    check_contradictions(given)
    kind = chosen_format(format_, output)
    one = len(prompts) == 1 and given.get("num_return_sequences", 1) == 1
    if stream and not (one and kind == "text"):
        raise click.UsageError("--stream shows one text of one PROMPT, as text")
    if "logprobs" in given and kind == "text":
        raise click.UsageError("--logprobs needs --format jsonl")
    config = GenerationConfig(**{"do_sample": True} | given)  # wrong values are told at once
    # What can be wrong with the input is told before the output is touched.
    lines = None if source is None else read_lines(source, encoding)
    check_output(output, source, force=force)
    loaded = load(
        model,
        quiet=quiet,
        threads=threads,
        device=device,
        kernels=kernels,
        batch_size=batch_size,
        max_memory=None if max_memory is None else max_memory * 2**20,
        verify_hashes=verify_hashes,
    )
    with loaded, open_output(output) as file:
        if stream:
            return _stream(loaded, prompts[0], config, file)
        total = len(prompts) if source is None else count_lines(source)
        items: Iterator[Item] = (Item(prompt, config, {}) for prompt in prompts)
        with progress(output, total, quiet=quiet) as advance:
            write = _Writer(loaded, file, kind)
            if lines is not None:
                items = _items(lines, config, kind)
            return _run(loaded, items, write, advance, strict=strict)


def _stream(model: GPT2Ja, prompt: str, config: GenerationConfig, file: IO[str]) -> int:
    chunks = model.stream(prompt, config)
    file.write(prompt)
    for chunk in chunks:
        file.write(chunk.text)
        file.flush()
    file.write("\n")
    return 0


def _items(lines: Iterator[Line], config: GenerationConfig, kind: str) -> Iterator[Item]:
    for number, line in lines:
        handed: dict[str, Any] = {"line": number}
        if not line.lstrip().startswith("{"):
            yield Item(line, config, handed)
            continue
        try:
            settings = json.loads(line)
            handed |= {key: settings.pop(key) for key in ("id", "metadata") if key in settings}
            prompt = settings.pop("prompt")
            if not isinstance(prompt, str):
                raise PromptError(f"'prompt' must be a string, not {prompt!r}")
            if kind == "text" and settings.get("logprobs") is not None:
                raise PromptError("'logprobs' needs --format jsonl")
            yield Item(prompt, config.override(settings), handed)
        except KeyError:
            yield Item("", PromptError(f"line {number}: has no 'prompt'"), handed)
        except (ValueError, TypeError, RecursionError) as error:
            yield Item("", PromptError(f"line {number}: {error}"), handed)


class _Writer:
    """Writes results as text or JSON lines.

    Args:
        model: Whose tokens are written.
        file: Where to.
        kind: ``text`` or ``jsonl``.
    """

    def __init__(self, model: GPT2Ja, file: IO[str], kind: str) -> None:
        self._model = model
        self._file = file
        self._jsonl = kind == "jsonl"

    def results(self, results: list[GenerationResult], index: int, handed: dict[str, Any]) -> None:
        """Write the sequences of one prompt."""
        for result in results:
            if not self._jsonl:
                self._file.write(f"{result.prompt}{result.text}\n")
                continue
            content = result.to_dict() | {"prompt_index": index}
            if result.logprobs is not None:
                piece = self._model.tokenizer.piece
                content["tokens"] = [piece(token) for token in result.token_ids]
                for entry in content["logprobs"]:
                    entry["best_tokens"] = [piece(token) for token, _ in entry["best"]]
            self._file.write(to_json(content | handed) + "\n")

    def error(self, error: Gpt2jaError, index: int, handed: dict[str, Any]) -> None:
        """Write what a prompt ended with."""
        if self._jsonl:
            content = {"error": str(error), "prompt_index": index} | handed
            self._file.write(to_json(content) + "\n")
        else:
            line = f"line {handed['line']}: " if "line" in handed else f"prompt {index}: "
            shown = str(error)
            click.echo(f"error: {shown if shown.startswith('line ') else line + shown}", err=True)


def _run(
    model: GPT2Ja,
    items: Iterator[Item],
    writer: _Writer,
    advance: Callable[[int], None],
    *,
    strict: bool,
) -> int:
    """Write every outcome in order; return the exit code: 1 if there was an error among them.

    Prompts are read and submitted in a thread, so that none waits for the next one to be typed.
    """
    submitted: queue.Queue[tuple[Item, Request | Gpt2jaError] | BaseException | None]
    submitted = queue.Queue(maxsize=16 * model.batch_size)
    stopped = threading.Event()

    def submit() -> None:
        try:
            for item in items:
                if stopped.is_set():
                    return
                submitted.put((item, _submit(model, item)))
            submitted.put(None)
        except BaseException as error:
            submitted.put(error)

    threading.Thread(target=submit, name="gpt2ja-onnx input", daemon=True).start()
    failed, index = False, 0
    try:
        while (entry := submitted.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            item, request = entry
            try:
                if isinstance(request, Gpt2jaError):
                    raise request
                writer.results(request.result(), index, item.handed)
            except Gpt2jaError as error:
                failed = True
                writer.error(error, index, item.handed)
                if strict:
                    raise PromptError(f"--strict: stopped at prompt {index}: {error}") from error
            advance(1)
            index += 1
    finally:
        stopped.set()
    return 1 if failed else 0


def _submit(model: GPT2Ja, item: Item) -> Request | Gpt2jaError:
    if isinstance(item.config, Gpt2jaError):
        return item.config
    try:
        return model.submit(item.prompt, item.config, wait=True)
    except Gpt2jaError as error:
        return error
