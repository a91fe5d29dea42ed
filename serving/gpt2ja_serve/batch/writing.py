"""The file of a part: its records with the carried columns, as JSON lines or Parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from gpt2ja_onnx.cli.outputs import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path


class PartWriter(Protocol):
    """Writes the records of a part to a file."""

    def write(self, record: dict[str, Any]) -> None:
        """Add a record."""
        ...

    def close(self) -> None:
        """Write the rest."""
        ...


class JsonWriter:
    """Writes records as JSON lines.

    Args:
        path: The file, which is made.
        plain: Makes of a carried value one that JSON has.
    """

    def __init__(self, path: Path, plain: Callable[[Any], Any] | None) -> None:
        self._file = path.open("w", encoding="utf-8", errors="replace")
        self._plain = plain

    def write(self, record: dict[str, Any]) -> None:
        """Add a record."""
        if self._plain is not None:
            record = {name: self._plain(value) for name, value in record.items()}
        self._file.write(to_json(record) + "\n")

    def close(self) -> None:
        """Write the rest."""
        self._file.close()


def with_carried(record: dict[str, Any], carried: dict[str, Any]) -> dict[str, Any]:
    """A record with carried columns; one that a result has as well gets ``input_`` before it."""
    named = dict(record)
    for name, value in carried.items():
        named[free_name(name, record)] = value
    return named


def free_name(name: str, taken: Collection[str]) -> str:
    """The name of a carried column: with ``input_`` before it where a result has its name."""
    while name in taken:
        name = f"input_{name}"
    return name


def named_pairs(value: Any) -> Any:
    """Pairs of (id, log-probability) as structs, at any depth."""
    if isinstance(value, tuple):
        return {"id": value[0], "logprob": value[1]}
    if isinstance(value, dict):
        return {key: named_pairs(item) for key, item in value.items()}
    return [named_pairs(item) for item in value] if isinstance(value, list) else value
