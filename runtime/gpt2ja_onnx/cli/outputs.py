"""Where results go: stdout, or a file that is whole or stays beside as ``.partial``."""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from gpt2ja_onnx.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class ReaderGoneError(Exception):
    """Who read the output went away, as ``head`` does. No OSError, which click ends with 1."""


def check_output(output: str, source: str | None, *, force: bool) -> None:
    """Refuse, before any work, an output that would lose something.

    Raises:
        OutputError: It is the input, or it exists and `force` is not set, or cannot be written.
    """
    if output == "-":
        return
    path = Path(output)
    if source not in (None, "-") and path.exists() and path.samefile(source or ""):
        raise OutputError(f"{output}: is the input as well; name another output")
    if path.is_dir():
        raise OutputError(f"{output}: is a directory")
    if not path.parent.is_dir():
        raise OutputError(f"{output}: cannot be written: there is no directory {path.parent}")
    if path.is_file() and not force:
        raise OutputError(f"{output}: exists already; use --force to replace it")


@contextlib.contextmanager
def open_output(output: str) -> Iterator[IO[str]]:
    """The file `output`, or stdout for ``-``; every line is written at once.

    A regular file is written beside, as ``.partial``, and renamed when all is written; what an
    interrupted run wrote stays there. Links, pipes and devices are written to as they are.
    """
    if output == "-":
        with contextlib.suppress(AttributeError):
            # Text that the terminal cannot show must not end the program, and an encoding that
            # cannot hold Japanese at all is none that was chosen.
            encoding = "utf-8" if not _holds_japanese(sys.stdout.encoding) else None
            sys.stdout.reconfigure(  # type: ignore[union-attr]  # what has none is let through
                encoding=encoding, errors="replace", line_buffering=True
            )
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise ReaderGoneError from error
        return
    path = Path(output)
    replaces = not path.is_symlink() and (not path.exists() or stat.S_ISREG(path.stat().st_mode))
    target = path.with_name(path.name + ".partial") if replaces else path
    try:
        file = target.open("w", encoding="utf-8", errors="replace", buffering=1)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}") from error
    try:
        with file:
            yield file
            if replaces:
                file.flush()
                os.fsync(file.fileno())
        if replaces:
            target.replace(path)
    except BrokenPipeError as error:
        raise ReaderGoneError from error
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def progress(output: str, total: int | None, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where results go elsewhere and there is something to wait for."""
    elsewhere = output != "-" or not sys.stdout.isatty()
    if quiet or total is None or total < 2 or not elsewhere or not sys.stderr.isatty():
        yield lambda steps: None
        return
    with click.progressbar(length=total, file=sys.stderr, show_pos=True) as bar:
        yield bar.update


def to_json(value: dict[str, Any]) -> str:
    """One line of JSON with Japanese as it is; numbers that JSON lacks are null."""
    return json.dumps(_clean(value), ensure_ascii=False)


def escaped(text: str) -> str:
    """Text for one column: tabs and line breaks are spelled out."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def chosen_format(format_: str | None, output: str) -> str:
    """The format asked for, or the one that the output's name says."""
    if format_ is not None:
        return format_
    return "jsonl" if output.lower().endswith((".jsonl", ".ndjson")) else "text"


def _clean(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def _holds_japanese(encoding: str) -> bool:
    try:
        "あ".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
