"""Readers of raw text: plain files, WikiExtractor's output and Hugging Face datasets.

Every reader is a generator of `Line`, so memory does not grow with the text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gpt2ja_onnx.errors import CorpusError, HubError

if TYPE_CHECKING:
    from collections.abc import Iterator

_DOC_OPENING = re.compile(r'<doc id="([^"]*)"')
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


class Line(NamedTuple):
    """One line of raw text and the document it stands in, or None where that is not known."""

    document: str | None
    text: str


def read_source(source: str) -> Iterator[Line]:
    """Yield the lines of `source`: a file, a directory of files, or a dataset ``id[:config]``.

    A file is taken for WikiExtractor's output when it begins with ``<doc id=`` or with a JSON
    object that has a ``text``; otherwise it is plain text whose documents are not known.

    Raises:
        CorpusError: `source` does not exist and cannot be a dataset id, or is not UTF-8.
        HubError: the dataset cannot be loaded.
    """
    path = Path(source)
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            yield from _read_file(file)
    elif path.is_file():
        yield from _read_file(path)
    elif _HUB_ID.fullmatch(source) and not path.suffix:
        yield from _read_dataset(source)
    else:
        raise CorpusError(f"{source}: no such file or directory")


def _read_file(path: Path) -> Iterator[Line]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
            file.seek(0)
            if first.startswith("<doc id="):
                yield from _read_wikiextractor(file)
            elif _is_json_document(first):
                yield from _read_wikiextractor_json(file)
            else:
                for line in file:
                    yield Line(None, line)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: is not UTF-8 text ({error.reason})") from error
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from error


def _read_wikiextractor(lines: Iterator[str]) -> Iterator[Line]:
    document = None
    for line in lines:
        if opening := _DOC_OPENING.match(line):
            document = opening[1]
        elif line.startswith("</doc>"):
            document = None
        else:
            yield Line(document, line)


def _is_json_document(line: str) -> bool:
    try:
        return isinstance(json.loads(line).get("text"), str)
    except (ValueError, AttributeError):
        return False


def _read_wikiextractor_json(lines: Iterator[str]) -> Iterator[Line]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
            identifier, text = str(document.get("id", number)), document["text"]
        except (ValueError, AttributeError, KeyError) as error:
            raise CorpusError(f"line {number}: is not a JSON object with a 'text'") from error
        for part in text.splitlines():
            yield Line(identifier, part)


def _read_dataset(source: str) -> Iterator[Line]:
    from datasets import load_dataset

    name, _, config = source.partition(":")
    try:
        rows = load_dataset(name, config or None, split="train", streaming=True)
    except Exception as error:  # the hub, the network and the dataset each raise their own
        raise HubError(
            f"{source}: is no file here, and no dataset could be loaded under that name: "
            f"{_first_line(error)}"
        ) from error
    for number, row in enumerate(rows):
        if not isinstance(row.get("text"), str):
            raise CorpusError(f"{source}: the dataset has no column 'text'; found {sorted(row)}")
        for part in row["text"].splitlines():
            yield Line(str(row.get("id", number)), part)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
