"""Rows that several engines share: in order, and computed again where an engine is lost."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from gpt2ja_onnx import GenerationConfig
from gpt2ja_onnx.errors import BatchError
from gpt2ja_serve.batch.execution import EngineLostError, Shared
from gpt2ja_serve.batch.rows import Columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpt2ja_serve.batch.rows import JobKind, Row
    from gpt2ja_serve.batch.work import Found


class Engine:
    """Takes a moment, and dies with the rows that `deadly` names."""

    def __init__(self, seconds: float = 0.0, deadly: frozenset[int] = frozenset()) -> None:
        self.seconds = seconds
        self.deadly = set(deadly)
        self.revived = 0

    def run(self, kind: JobKind, rows: Sequence[Row]) -> list[Found]:
        time.sleep(self.seconds)
        if any(row.position in self.deadly for row in rows):
            raise EngineLostError
        return [[] for _ in rows]

    def revive(self) -> None:
        self.revived += 1


def rows(count: int, taken: list[int] | None = None) -> Iterator[Row]:
    columns, config = Columns("generate", {}), GenerationConfig()
    for position in range(count):
        if taken is not None:
            taken.append(position)
        yield columns.row({"prompt": "寺", "id": position}, position, config, 1)


def test_rows_come_in_order_from_fast_and_slow_engines() -> None:
    shared = Shared([Engine(0.03), Engine(), Engine(0.01)], chunk_rows=3)
    found = [row.position for row, _ in shared.outcomes("generate", rows(100))]
    assert found == list(range(100))
    assert shared.retries == 0


def test_rows_are_taken_as_there_is_room() -> None:
    taken: list[int] = []
    shared = Shared([Engine()], chunk_rows=5)
    outcomes = shared.outcomes("generate", rows(10_000, taken))
    for _ in range(20):
        next(outcomes)
    assert len(taken) < 100
    outcomes.close()
    shared.close()


def test_what_a_lost_engine_had_goes_to_another() -> None:
    dying, lasting = Engine(deadly=frozenset({7, 8})), Engine(0.01)
    shared = Shared([dying, lasting], chunk_rows=2)
    found = [row.position for row, _ in shared.outcomes("generate", rows(60))]
    assert found == list(range(60))
    assert shared.retries == dying.revived


def test_rows_that_no_engine_survives_end_the_job() -> None:
    deadly = frozenset({7})
    shared = Shared([Engine(deadly=deadly) for _ in range(3)], chunk_rows=2)
    with pytest.raises(BatchError, match="rows 6 to 7: 4 workers died with them"):
        list(shared.outcomes("generate", rows(60)))
    shared.close()


def test_an_engine_that_comes_later_takes_part() -> None:
    shared = Shared([], chunk_rows=2)
    late = threading.Timer(0.1, lambda: shared.add(Engine()))
    late.start()
    assert sum(1 for _ in shared.outcomes("generate", rows(9), engines=2)) == 9
    late.join()


def test_a_failure_of_an_engine_ends_the_job() -> None:
    shared = Shared([Engine(0.01)], chunk_rows=2)
    threading.Timer(0.05, lambda: shared.fail(BatchError("another fingerprint"))).start()
    with pytest.raises(BatchError, match="another fingerprint"):
        list(shared.outcomes("generate", rows(10_000)))
    shared.close()
