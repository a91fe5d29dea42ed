"""What a job has to do: its inputs, measured and hashed, and the parts they are cut into."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpt2ja_onnx.errors import Gpt2jaError, PromptError
from gpt2ja_serve.batch.reading import parse_line, read_lines, told_by_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpt2ja_serve.batch.rows import Columns
    from gpt2ja_serve.batch.sources import Source

_AT_ONCE = 1 << 20  # ids


class Part(NamedTuple):
    """Some rows of one file, whose results are one file of the output.

    Attributes:
        number: Position among the parts of the job.
        source: Index of the input file.
        rows: Which of its rows.
        first: Position of the first one among all rows of the job.
    """

    number: int
    source: int
    rows: range
    first: int


@dataclass(slots=True)
class Plan:
    """The inputs of a job.

    Attributes:
        sources: The files.
        inputs: Path, size, SHA-256 and number of rows of each, as the manifest has them.
        columns: Types of the columns of all files of JSON lines.
        duplicates: Rows whose id an earlier row has.
    """

    sources: list[Source]
    inputs: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    duplicates: int = 0

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(item["rows"] for item in self.inputs)

    def parts(self, size: int) -> list[Part]:
        """The job cut into parts of so many rows, and what is left of each file."""
        parts: list[Part] = []
        first = 0
        for source, item in enumerate(self.inputs):
            for start in range(0, item["rows"], size):
                rows = range(start, min(start + size, item["rows"]))
                parts.append(Part(len(parts), source, rows, first + start))
            first += item["rows"]
        return parts


def make_plan(sources: Sequence[Source], columns: Columns) -> Plan:
    """Read all inputs once.

    Raises:
        PromptError: Files cannot be read, or lack a column, all of which are named; or there is
            no row.
    """
    plan = Plan(list(sources))
    problems: list[str] = []
    # Hashes of ids are sorted on disk: those of a billion rows do not fit into memory.
    with tempfile.TemporaryFile() as hashes:
        for source in sources:
            try:
                plan.inputs.append(_measure(source, columns, plan, hashes))
            except PromptError as error:
                problems.append(str(error))
        if problems:
            raise PromptError(f"nothing was done: {'; '.join(problems)}")
        if plan.rows == 0:
            raise PromptError("the inputs have no rows")
        plan.duplicates = _duplicates(hashes)
    return plan


def _measure(source: Source, columns: Columns, plan: Plan, hashes: Any) -> dict[str, Any]:
    with told_by_path(source), source.open() as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    ids = (
        _parquet_ids(source, columns) if source.format == "parquet" else _ids(source, columns, plan)
    )
    rows = 0
    for id_ in ids:
        rows += 1
        if id_ is not None:
            key = str(id_).encode("utf-8", errors="surrogatepass")
            hashes.write(hashlib.blake2b(key, digest_size=8).digest())
    return {"path": source.name, "size": size, "sha256": sha256, "rows": rows}


def _ids(source: Source, columns: Columns, plan: Plan) -> Iterator[Any]:
    for line in read_lines(source):
        row = parse_line(source, line, columns)
        if isinstance(row, Gpt2jaError):
            yield None
            continue
        for name, value in row.items():
            if name not in columns.known:
                known = plan.columns.get(name, "null")
                plan.columns[name] = known if known == "json" else _merged(known, _type(value))
        yield row.get(columns.columns["id"])


def _parquet_ids(source: Source, columns: Columns) -> Iterator[Any]:
    from gpt2ja_serve.batch import parquet

    names = parquet.schema_of(source).names
    text, id_ = columns.columns[columns.text], columns.columns["id"]
    if text not in names:
        raise PromptError(
            f"{source.name}: has no column {text!r}; it has {', '.join(names)}: name the one to "
            f"take with --column {columns.text}=NAME"
        )
    if id_ not in names:
        yield from (None for _ in range(parquet.count_rows(source)))
        return
    everything = [range(parquet.count_rows(source))]
    for row in parquet.read_rows(source, everything, {id_}, only=True):
        yield row[id_]


def _type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            return "int" if -(2**63) <= value < 2**63 else "json"
        case float():
            return "float"
        case str():
            return "string"
        case _:
            return "json"


def _merged(one: str, other: str) -> str:
    if one == other or other == "null":
        return one
    if one == "null":
        return other
    return "float" if {one, other} == {"int", "float"} else "json"


def _duplicates(hashes: Any) -> int:
    hashes.flush()
    count = hashes.tell() // 8
    if count < 2:
        return 0
    ordered = np.memmap(hashes, dtype=np.uint64, mode="r+", shape=(count,))
    ordered.sort()
    found = 0
    for start in range(0, count - 1, _AT_ONCE):
        some = ordered[start : start + _AT_ONCE + 1]
        found += int(np.count_nonzero(some[1:] == some[:-1]))
    return found
