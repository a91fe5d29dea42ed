"""Parquet files: rows in, results out. Everything here needs pyarrow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpt2ja_onnx.errors import PromptError
from gpt2ja_serve.batch.writing import free_name, named_pairs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from gpt2ja_serve.batch.rows import JobKind
    from gpt2ja_serve.batch.sources import Source

_READ = 256  # rows
_ROW_GROUP = 4096

_PROMPT = [("id", pa.string()), ("row", pa.int64())]
_BEST = pa.list_(pa.struct([("id", pa.int32()), ("logprob", pa.float64())]))
_FIELDS: dict[str, list[tuple[str, pa.DataType]]] = {
    "generate": [
        *_PROMPT,
        ("sequence_index", pa.int32()),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("seed", pa.uint64()),
        ("fingerprint", pa.string()),
        ("logprobs", pa.list_(pa.struct([("logprob", pa.float64()), ("best", _BEST)]))),
        ("error", pa.string()),
    ],
    "score": [
        *_PROMPT,
        ("text", pa.string()),
        ("tokens", pa.int64()),
        ("logprob", pa.float64()),
        ("perplexity", pa.float64()),
        ("token_ids", pa.list_(pa.int32())),
        ("token_logprobs", pa.list_(pa.float64())),
        ("best", pa.list_(_BEST)),
        ("fingerprint", pa.string()),
        ("error", pa.string()),
    ],
}
_INFERRED = {
    "null": pa.string(), "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(),
    "string": pa.string(), "json": pa.string(),
}  # fmt: skip


def schema_of(source: Source) -> pa.Schema:
    """The columns of a file.

    Raises:
        PromptError: It is no Parquet file, or cannot be read.
    """
    try:
        with source.open() as file:
            return pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise PromptError(f"{source.name}: cannot be read as Parquet: {_line(error)}") from error


def read_rows(
    source: Source, ranges: Sequence[range], columns: Collection[str], *, only: bool = False
) -> Iterator[dict[str, Any]]:
    """Rows of a file, some at a time.

    Args:
        source: The file.
        ranges: Which rows, ascending.
        columns: Those that are wanted as Python's objects; the others come as pyarrow's scalars,
            which keep their types.
        only: Leave the other columns out.

    Raises:
        PromptError: It cannot be read.
    """
    try:
        with source.open() as raw, pq.ParquetFile(raw) as file:
            names = [name for name in file.schema_arrow.names if name in columns or not only]
            for group, first, last in _groups(file, ranges):
                position = first
                for batch in file.iter_batches(_READ, row_groups=[group], columns=names):
                    start, position = position, position + batch.num_rows
                    for wanted in ranges:
                        low, high = max(start, wanted.start), min(position, wanted.stop, last)
                        if low < high:
                            yield from _rows(batch.slice(low - start, high - low), columns)
    except (OSError, pa.ArrowException) as error:
        raise PromptError(f"{source.name}: cannot be read as Parquet: {_line(error)}") from error


def count_rows(source: Source) -> int:
    """How many rows a file has, by its footer."""
    with source.open() as file:
        return int(pq.read_metadata(file).num_rows)


def result_schema(
    kind: JobKind, parquet: Sequence[pa.Schema], inferred: dict[str, str], known: Collection[str]
) -> pa.Schema:
    """The columns of the output.

    Args:
        kind: The job.
        parquet: Columns of the inputs that are Parquet files.
        inferred: Types of the columns of those that are JSON lines.
        known: Columns that are not carried through.

    Raises:
        PromptError: A column has types that do not go together.
    """
    found = [
        *(pa.schema([field for field in one if field.name not in known]) for one in parquet),
        pa.schema([(name, _INFERRED[kind_]) for name, kind_ in inferred.items()]),
    ]
    try:
        carried = pa.unify_schemas(found, promote_options="permissive")
    except pa.ArrowException as error:
        raise PromptError(
            f"the inputs' columns do not go together: {_line(error)}; use --format jsonl"
        ) from error
    own = pa.schema(_FIELDS[kind])
    for field in carried:
        own = own.append(field.with_name(free_name(field.name, own.names)))
    return own.remove_metadata()


class ParquetWriter:
    """Writes records to a Parquet file.

    Args:
        path: The file, which is made.
        schema: Its columns; records may lack some.
        as_json: Columns that hold other values as JSON text.
    """

    def __init__(self, path: Path, schema: pa.Schema, as_json: Collection[str]) -> None:
        self._schema = schema
        self._as_json = as_json
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._records: list[dict[str, Any]] = []

    def write(self, record: dict[str, Any]) -> None:
        """Add a record."""
        self._records.append(record)
        if len(self._records) == _ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write the rest."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        arrays = [
            pa.array(
                [_value(record.get(field.name), field, self._as_json) for record in self._records],
                field.type,
            )
            for field in self._schema
        ]
        self._writer.write_table(pa.table(arrays, schema=self._schema))
        self._records = []


def to_python(value: Any) -> Any:
    """A carried value as JSON takes it: what JSON lacks becomes text."""
    if not isinstance(value, pa.Scalar):
        return value
    try:
        return json.loads(json.dumps(value.as_py(), default=str))
    except (ValueError, ImportError):  # nanoseconds, which Python lacks
        return str(value)


def _value(value: Any, field: pa.Field, as_json: Collection[str]) -> Any:
    if isinstance(value, pa.Scalar):
        # pyarrow makes no array of lists that are null, and None at any depth is as good.
        if not value.is_valid or pa.types.is_nested(value.type):
            return value.as_py()
        return value if value.type == field.type else value.cast(field.type)
    if value is None:
        return None
    if field.name in as_json:
        return json.dumps(value, ensure_ascii=False)
    if field.name == "id":
        return str(value)
    if field.name in ("logprobs", "best"):
        return named_pairs(value)
    return value


def _groups(file: pq.ParquetFile, ranges: Sequence[range]) -> Iterator[tuple[int, int, int]]:
    """The row groups in which wanted rows lie, with their first row and that behind the last."""
    first = 0
    for group in range(file.num_row_groups):
        last = first + file.metadata.row_group(group).num_rows
        if any(wanted.start < last and first < wanted.stop for wanted in ranges):
            yield group, first, last
        first = last


def _rows(batch: pa.RecordBatch, columns: Collection[str]) -> Iterator[dict[str, Any]]:
    values = [
        batch.column(name).to_pylist() if name in columns else list(batch.column(name))
        for name in batch.schema.names
    ]
    for row in zip(*values, strict=True):
        yield dict(zip(batch.schema.names, row, strict=True))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
