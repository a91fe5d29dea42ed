"""Rows of text files and of JSON lines, streamed."""

from __future__ import annotations

import contextlib
import json
import zlib
from typing import TYPE_CHECKING

from gpt2ja_onnx.cli.inputs import likely_encoding
from gpt2ja_onnx.errors import PromptError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpt2ja_serve.batch.rows import Columns, RawRow
    from gpt2ja_serve.batch.sources import Source


@contextlib.contextmanager
def told_by_path(source: Source) -> Iterator[None]:
    """Failures of a file as one line with its path.

    Raises:
        PromptError: The file cannot be read.
    """
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise PromptError(f"{source.name}: cannot be read: {reason}") from error


def read_lines(source: Source) -> Iterator[bytes]:
    """The lines of a file that are not empty, without their ends.

    Raises:
        PromptError: It cannot be read.
    """
    with told_by_path(source), source.open_lines() as file:
        for number, line in enumerate(file):
            whole = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            if whole := whole.rstrip(b"\r\n"):
                yield whole


def parse_line(source: Source, line: bytes, columns: Columns) -> RawRow:
    """A line as a row.

    Args:
        source: Where it is from.
        line: The line.
        columns: Which column has what. In a text file of prompts a line that begins with ``{`` is
            JSON, as it is for ``gpt2ja-onnx generate``; texts to score are taken as they are.

    Returns:
        Its columns, or the error.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        likely = likely_encoding(line)
        perhaps = f" but perhaps {likely}" if likely else ""
        return PromptError(f"is not UTF-8{perhaps}; convert the input to UTF-8")
    is_json = source.format == "jsonl" or (
        columns.kind == "generate" and text.lstrip().startswith("{")
    )
    if not is_json:
        return {columns.columns[columns.text]: text}
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return PromptError(f"is not JSON: {error}")
    return row if isinstance(row, dict) else PromptError("is not a JSON object")
