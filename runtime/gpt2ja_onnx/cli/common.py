"""What the commands that run a bundle share: options, loading, and reading and writing lines."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from gpt2ja_onnx.errors import OutputError, PromptError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gpt2ja_onnx.model import GPT2Ja

_F = TypeVar("_F", bound="Callable[..., Any]")


def bundle_options(function: _F) -> _F:
    """Options of every command that runs a bundle."""
    for option in (
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="'auto': the GPU for a bundle that is made for one, if it can be used.",
        ),
        click.option("--threads", type=int, help="Threads.  [default: what may be used]"),
        click.option(
            "--model", type=click.Path(path_type=Path), help="Bundle.  [default: demo model]"
        ),
    ):
        function = option(function)
    return function


def load(model: Path | None, **options: Any) -> GPT2Ja:
    """Load a bundle; say so if it is the demo model."""
    from gpt2ja_onnx.bundle.demo import NOTICE
    from gpt2ja_onnx.model import GPT2Ja

    if model is None:
        click.echo(NOTICE, err=True)
    return GPT2Ja.load(model, **options)


@contextlib.contextmanager
def open_output(output: str) -> Iterator[IO[str]]:
    """The file `output`, or stdout for ``-``; every line is written at once."""
    if output == "-":
        # Text that the terminal cannot show must not end the program.
        with contextlib.suppress(AttributeError):
            sys.stdout.reconfigure(errors="replace", line_buffering=True)  # type: ignore[union-attr]
        yield sys.stdout
        return
    try:
        file = Path(output).open("w", encoding="utf-8", errors="replace", buffering=1)  # noqa: SIM115
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}") from error
    with file:
        yield file


def read_lines(source: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a UTF-8 file, or of stdin for ``-``; empty ones are skipped."""
    if source == "-":
        with contextlib.suppress(AttributeError):
            sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
        lines: contextlib.AbstractContextManager[IO[str]] = contextlib.nullcontext(sys.stdin)
    else:
        lines = _open_input(source)
    with lines as file:
        for number, line in enumerate(file, start=1):
            if text := line.rstrip("\r\n"):
                yield number, text


def count_lines(source: str) -> int | None:
    """How many lines a file has; None for stdin."""
    if source == "-":
        return None
    with _open_input(source) as file:
        return sum(1 for line in file if line.rstrip("\r\n"))


@contextlib.contextmanager
def progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is a terminal; yields what advances it."""
    if total is None or not sys.stderr.isatty():
        yield lambda steps: None
        return
    with click.progressbar(length=total, file=sys.stderr, show_pos=True) as bar:
        yield bar.update


def to_json(value: dict[str, Any]) -> str:
    """One line of JSON with Japanese as it is; infinities, which JSON lacks, as null."""
    clean = {k: None if v in (float("inf"), float("-inf")) else v for k, v in value.items()}
    return json.dumps(clean, ensure_ascii=False)


def _open_input(source: str) -> IO[str]:
    try:
        return Path(source).open(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise PromptError(f"{source}: cannot be read: {error.strerror}") from error
