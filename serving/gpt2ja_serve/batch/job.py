"""A batch job: the missing parts through engines, in order."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gpt2ja_onnx.errors import BatchError, Gpt2jaError, OutputError, PromptError
from gpt2ja_serve.batch.directory import Counts
from gpt2ja_serve.batch.reading import parse_line, read_lines
from gpt2ja_serve.batch.work import records, tokens_of
from gpt2ja_serve.batch.writing import JsonWriter, with_carried

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from gpt2ja_onnx.settings.config import GenerationConfig
    from gpt2ja_serve.batch.directory import JobDirectory
    from gpt2ja_serve.batch.execution import Executor
    from gpt2ja_serve.batch.plan import Part, Plan
    from gpt2ja_serve.batch.rows import Columns, JobKind, RawRow, Row
    from gpt2ja_serve.batch.sources import Source
    from gpt2ja_serve.batch.work import Found
    from gpt2ja_serve.batch.writing import PartWriter

OutputFormat = Literal["jsonl", "parquet"]


@dataclass(frozen=True, slots=True)
class Job:
    """What is done with the rows of a plan.

    Attributes:
        kind: Continue prompts, or score texts.
        config: Settings of all rows that have no others.
        columns: Which column has what.
        seed: From which rows' seeds are made.
        format: Of the output.
        max_errors: Rows that may fail; None for any number.
    """

    kind: JobKind
    config: GenerationConfig
    columns: Columns
    seed: int
    format: OutputFormat
    max_errors: int | None


def part_name(part: Part, parts: int, format_: OutputFormat) -> str:
    """The file of a part; in order of these names the results are in order of the input."""
    digits = max(5, len(str(parts)))
    return f"part-{part.number:0{digits}}-of-{parts:0{digits}}.{format_}"


class Runner:
    """Runs parts of a job.

    Args:
        executor: Does the work.
        job: What to do.
        plan: With which inputs.
        directory: Where results go.
        names: The file of each part.
        advance: Is called with the tokens of each row done.
    """

    def __init__(
        self,
        executor: Executor,
        job: Job,
        plan: Plan,
        directory: JobDirectory,
        names: Sequence[str],
        advance: Callable[[int], None],
    ) -> None:
        self._executor = executor
        self._job = job
        self._plan = plan
        self._directory = directory
        self._names = names
        self._advance = advance
        self._schema = _schema(job, plan) if job.format == "parquet" else None
        self._failed: list[str] = []

    def run(self, parts: Sequence[Part], errors: int) -> tuple[Counts, list[str]]:
        """Do these parts, ascending by index.

        Args:
            parts: Those that are missing.
            errors: Rows of other parts that failed.

        Returns:
            What the finished parts brought, and why inputs could not be read; their other parts
            are missing.

        Raises:
            OutputError: The directory cannot be written.
            BatchError: More rows failed than may.
        """
        by_first = {part.first: part for part in parts}
        total, open_part = Counts(), None
        found = self._executor.outcomes(self._job.kind, self._rows(parts))
        try:
            with contextlib.closing(found):
                for row, result in found:
                    if row.position in by_first:
                        if open_part is not None:  # its input could not be read to the end
                            open_part.abandon()
                        open_part = self._open(by_first[row.position])
                    assert open_part is not None
                    tokens = open_part.add(row, result, self._executor.fingerprint)
                    if isinstance(result, Gpt2jaError):
                        errors += 1
                        self._check(errors, row, result)
                    self._advance(tokens)
                    if open_part.whole:
                        total = total.plus(open_part.finish(self._directory))
                        open_part = None
        except OSError as error:
            if isinstance(error, Gpt2jaError):
                raise
            advice = "free some space, then " if error.errno == errno.ENOSPC else ""
            raise OutputError(
                f"the output cannot be written: {error.strerror or error}; {advice}go on with "
                "--resume"
            ) from error
        finally:
            if open_part is not None:
                open_part.abandon()
        return total, self._failed

    def _check(self, errors: int, row: Row, error: Gpt2jaError) -> None:
        if self._job.max_errors is not None and errors > self._job.max_errors:
            raise BatchError(
                f"--max-errors {self._job.max_errors}: {errors} rows failed, the last one was row "
                f"{row.position}: {error}"
            )

    def _rows(self, parts: Sequence[Part]) -> Iterator[Row]:
        for index, source in enumerate(self._plan.sources):
            wanted = [part for part in parts if part.source == index]
            if not wanted:
                continue
            raw = _read(source, [part.rows for part in wanted], self._job.columns)
            positions = (part.first + offset for part in wanted for offset in range(len(part.rows)))
            try:
                for position in positions:
                    one = next(raw, None)
                    if one is None:
                        raise PromptError(f"{source.name}: has fewer rows than when the job began")
                    yield self._job.columns.row(one, position, self._job.config, self._job.seed)
            except PromptError as error:
                self._failed.append(str(error))

    def _open(self, part: Part) -> _OpenPart:
        name = self._names[part.number]
        path = self._directory.temporary(name)
        writer: PartWriter
        if self._schema is not None:
            from gpt2ja_serve.batch.parquet import ParquetWriter

            as_json = {name for name, type_ in self._plan.columns.items() if type_ == "json"}
            writer = ParquetWriter(path, self._schema, as_json)
        elif any(source.format == "parquet" for source in self._plan.sources):
            from gpt2ja_serve.batch.parquet import to_python

            writer = JsonWriter(path, to_python)
        else:
            writer = JsonWriter(path, None)
        return _OpenPart(self._job.kind, part, name, writer)


class _OpenPart:
    """A part that is being written."""

    def __init__(self, kind: JobKind, part: Part, name: str, writer: PartWriter) -> None:
        self._kind = kind
        self._part = part
        self._name = name
        self._writer = writer
        self._counts = Counts()

    @property
    def whole(self) -> bool:
        """Whether all rows have come."""
        return self._counts.rows == len(self._part.rows)

    def add(self, row: Row, found: Found, fingerprint: str) -> int:
        """Write what became of a row; returns its tokens."""
        written = records(self._kind, row, found, fingerprint)
        for record in written:
            self._writer.write(with_carried(record, row.carried))
        tokens = tokens_of(found)
        failed = int(isinstance(found, Gpt2jaError))
        self._counts = self._counts.plus(Counts(1, len(written), failed, tokens))
        return tokens

    def finish(self, directory: JobDirectory) -> Counts:
        """Close the file and give it its name."""
        self._writer.close()
        directory.finish(self._name, self._counts)
        return self._counts

    def abandon(self) -> None:
        """Close the file; it is left to be written anew."""
        with contextlib.suppress(OSError, ValueError):  # pyarrow's are both
            self._writer.close()


def _schema(job: Job, plan: Plan) -> pa.Schema:
    from gpt2ja_serve.batch.parquet import result_schema, schema_of

    schemas = [schema_of(source) for source in plan.sources if source.format == "parquet"]
    return result_schema(job.kind, schemas, plan.columns, job.columns.known)


def _read(source: Source, ranges: list[range], columns: Columns) -> Iterator[RawRow]:
    """Rows of a file, ranges ascending; it is read once."""
    if source.format == "parquet":
        from gpt2ja_serve.batch.parquet import read_rows

        yield from read_rows(source, ranges, columns.known)
        return
    lines = enumerate(read_lines(source))
    for wanted in ranges:
        for index, line in lines:
            if index >= wanted.start:
                yield parse_line(source, line, columns)
            if index == wanted.stop - 1:
                break
