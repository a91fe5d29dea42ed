"""The input files of a job: which there are, and how each is read."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from gpt2ja_onnx.errors import PromptError

if TYPE_CHECKING:
    from collections.abc import Sequence

Format = Literal["text", "jsonl", "parquet"]

_FORMATS: dict[str, Format] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


class Source(NamedTuple):
    """An input file.

    Attributes:
        path: Where it is.
        format: What it holds.
        compressed: Whether it is compressed with gzip.
    """

    path: Path
    format: Format
    compressed: bool


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """The files that inputs name, each once, in the order given.

    A directory gives the files below it whose names say what they hold, sorted by path; names
    that begin with a dot or an underscore are left out. A file that is named itself is text if
    its name does not say otherwise.

    Raises:
        PromptError: There is no such file, or a directory or pattern gives none.
    """
    found: dict[Path, Source] = {}
    for given in inputs:
        for path in _paths(given):
            source = _source(path) or Source(path, "text", path.suffix == ".gz")
            found.setdefault(path.resolve(), source)
    return list(found.values())


def _paths(given: str) -> list[Path]:
    path = Path(given)
    if path.is_dir():
        below = sorted(
            file
            for file in path.rglob("*")
            if _source(file) is not None
            and file.is_file()
            and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
        )
        if not below:
            raise PromptError(
                f"{given}: has no file to read; expected names that end in "
                f"{', '.join(_FORMATS)}, or in these and .gz"
            )
        return below
    if path.exists():
        return [path]
    matches = sorted(map(Path, glob.glob(given, recursive=True)))  # noqa: PTH207  # also absolute
    if not matches:
        raise PromptError(f"{given}: there is no such file")
    return [
        file for match in matches for file in (_paths(str(match)) if match.is_dir() else [match])
    ]


def _source(path: Path) -> Source | None:
    compressed = path.suffix.lower() == ".gz"
    format_ = _FORMATS.get((Path(path.stem) if compressed else path).suffix.lower())
    if format_ is None or (compressed and format_ == "parquet"):
        return None
    return Source(path, format_, compressed)
