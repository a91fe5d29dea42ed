"""Who computes the rows of a job: one engine, or several that share them."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from gpt2ja_onnx.errors import BatchError
from gpt2ja_serve.batch.work import outcomes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from gpt2ja_onnx.model import GPT2Ja
    from gpt2ja_serve.batch.rows import JobKind, Row
    from gpt2ja_serve.batch.work import Found

# Chunks that an engine has in work at once, so that it goes on when one ends.
_AT_ONCE = 2
# Chunks that are in work or wait for an earlier one, for each engine: results come in order.
_AHEAD = 4
# Engines that one chunk may lose; it is likelier the chunk's fault than theirs then.
_MOST_LOST = 4
_OTHERS_FIRST = 60.0  # seconds in which others may take such a chunk: one machine may be broken


class Executor(Protocol):
    """Computes rows."""

    @property
    def fingerprint(self) -> str:
        """Of all engines."""
        ...

    @property
    def cores(self) -> int:
        """Threads of all engines."""
        ...

    @property
    def retries(self) -> int:
        """Chunks that were computed again because an engine was lost."""
        ...

    def outcomes(self, kind: JobKind, rows: Iterable[Row]) -> Generator[tuple[Row, Found]]:
        """What becomes of each row, in order; rows are taken as there is room for them."""
        ...

    def close(self) -> None:
        """Let the engines go; what they compute ends with an error."""
        ...


class Engine(Protocol):
    """One of several engines."""

    def run(self, kind: JobKind, rows: Sequence[Row]) -> list[Found]:
        """Compute rows; is called from several threads.

        Raises:
            EngineLostError: The engine has died.
        """
        ...

    def revive(self) -> None:
        """Wait until there is an engine again."""
        ...


class EngineLostError(Exception):
    """An engine died with the rows that it had; others can compute them."""


class OneModel:
    """Implements `Executor` by one model in this process."""

    def __init__(self, model: GPT2Ja, cores: int) -> None:
        self._model = model
        self.fingerprint = model.fingerprint
        self.cores = cores
        self.retries = 0

    def outcomes(self, kind: JobKind, rows: Iterable[Row]) -> Generator[tuple[Row, Found]]:
        """See `Executor`."""
        return outcomes(self._model, kind, rows)

    def close(self) -> None:
        """See `Executor`."""
        self._model.close(cancel=True)


class Models:
    """Implements `Executor` by several models in this process, which share its cores."""

    def __init__(self, models: Sequence[GPT2Ja], cores: int, chunk_rows: int) -> None:
        self._models = models
        self._shared = Shared([_InProcess(model) for model in models], chunk_rows)
        self.fingerprint = models[0].fingerprint
        self.cores = cores
        self.retries = 0

    def outcomes(self, kind: JobKind, rows: Iterable[Row]) -> Generator[tuple[Row, Found]]:
        """See `Executor`."""
        return self._shared.outcomes(kind, rows)

    def close(self) -> None:
        """See `Executor`."""
        for model in self._models:
            model.close(cancel=True)


class Shared:
    """Chunks of rows for several engines, whichever is free.

    Args:
        engines: Those that are there; `add` brings more.
        chunk_rows: Rows that an engine is given at once.

    Attributes:
        retries: Chunks that were computed again because an engine was lost.
    """

    def __init__(self, engines: Sequence[Engine], chunk_rows: int) -> None:
        self.retries = 0
        self._chunk_rows = chunk_rows
        self._free: queue.SimpleQueue[Engine | Exception] = queue.SimpleQueue()
        self._count = 0
        self._threads: ThreadPoolExecutor | None = None
        for engine in engines:
            self.add(engine)

    def add(self, engine: Engine) -> None:
        """Give work to one more engine from now on."""
        self._count += 1
        for _ in range(_AT_ONCE):
            self._free.put(engine)

    def fail(self, error: Exception) -> None:
        """End the work with an error."""
        self._free.put(error)

    def outcomes(
        self, kind: JobKind, rows: Iterable[Row], engines: int | None = None
    ) -> Generator[tuple[Row, Found]]:
        """See `Executor`; `engines`: how many there will be."""
        most = engines or self._count
        pending: deque[tuple[list[Row], Future[list[Found]]]] = deque()

        def first() -> Iterator[tuple[Row, Found]]:
            chunk, future = pending.popleft()
            return zip(chunk, future.result(), strict=True)

        threads = self._threads = ThreadPoolExecutor(_AT_ONCE * most, "batch")
        try:
            iterator = iter(rows)
            while chunk := list(islice(iterator, self._chunk_rows)):
                pending.append((chunk, threads.submit(self._compute, kind, chunk)))
                while pending and (len(pending) >= _AHEAD * most or pending[0][1].done()):
                    yield from first()
            while pending:
                yield from first()
        finally:
            self.fail(BatchError("the job has ended"))  # to threads that wait for an engine
            threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Wait for the threads, whose engines have ended."""
        self.fail(BatchError("the job has ended"))
        if self._threads is not None:
            self._threads.shutdown()

    def _compute(self, kind: JobKind, chunk: list[Row]) -> list[Found]:
        lost: set[Engine] = set()
        for _ in range(_MOST_LOST):
            engine = self._take(lost)
            try:
                found = engine.run(kind, chunk)
            except EngineLostError:
                self.retries += 1
                lost.add(engine)
                threading.Thread(target=self._revive, args=(engine,), daemon=True).start()
                continue
            self._free.put(engine)
            return found
        raise BatchError(
            f"rows {chunk[0].position} to {chunk[-1].position}: {_MOST_LOST} workers died with "
            "them; see their logs, and the memory of their machines"
        )

    def _take(self, lost: set[Engine]) -> Engine:
        """An engine that is free: one that was lost with these rows only after a while."""
        until = time.monotonic() + _OTHERS_FIRST
        while True:
            engine = self._free.get()
            if isinstance(engine, Exception):
                self._free.put(engine)  # for the other threads
                raise engine
            if engine not in lost or len(lost) == self._count or time.monotonic() > until:
                return engine
            self._free.put(engine)
            time.sleep(0.05)

    def _revive(self, engine: Engine) -> None:
        try:
            engine.revive()
        except Exception as error:
            self._free.put(error)
        else:
            self._free.put(engine)


class _InProcess:
    """Implements `Engine` by a model of this process."""

    def __init__(self, model: GPT2Ja) -> None:
        self._model = model

    def run(self, kind: JobKind, rows: Sequence[Row]) -> list[Found]:
        """See `Engine`."""
        return [found for _, found in outcomes(self._model, kind, rows)]

    def revive(self) -> None:
        """See `Engine`; this process ends with its models."""
