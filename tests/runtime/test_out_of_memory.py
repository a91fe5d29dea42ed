"""A device without room: fewer requests run at once, and only what fits nowhere fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2ja_onnx.device.cpu.cache import KVCache
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.errors import GenerationError, OutOfMemoryError
from tests.runtime.test_engine import (
    CURSED,
    SHAPE,
    FakePlan,
    FakeSession,
    expected_ids,
    make_request,
    searched,
)

PROMPTS = [[i % CURSED, 3, (7 * i) % 12] for i in range(12)]


class SmallCache(KVCache):
    """Has room for `limit` bytes, and for nothing beside the old buffer while it is in use."""

    limit = 0

    def _resize(self, rows: int, capacity: int, used_rows: int) -> None:
        if self.bytes_needed(rows, capacity) > self.limit:
            raise OutOfMemoryError("the device is out of memory")
        super()._resize(rows, capacity, used_rows)


class SmallSession(FakeSession):
    """Runs out of memory for prompts over `prompt_rows` rows, and steps over `decode_rows`."""

    prompt_rows = 1000
    decode_rows = 1000

    def plan(self, rows: int, new: int, positions: int, caches: list[Any]) -> FakePlan:
        if rows > (self.prompt_rows if new > 1 else self.decode_rows):
            raise OutOfMemoryError("the device is out of memory")
        return super().plan(rows, new, positions, caches)


def run(engine: Engine, requests: list[Any]) -> int:
    """Run to the end; return how many sequences ran at once."""
    for request in requests:
        engine.add(request)
    most = 0
    for _ in range(2000):
        if engine.idle:
            return most
        engine.step()
        most = max(most, len(engine.running))
    raise AssertionError("the engine does not come to an end")


def small_engine(cache_rows: int = 1000, **limits: int) -> Engine:
    session = SmallSession()
    for name, value in limits.items():
        setattr(session, name, value)
    cache = SmallCache(SHAPE)
    cache.limit = cache.bytes_needed(cache_rows, 64)
    return Engine(session, max_rows=8, cache=cache)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({}, 8),
        ({"cache_rows": 3}, 2),  # the cache doubles: 1, 2, but not 4
        ({"prompt_rows": 3}, 2),  # half of 8, and half of that
        ({"prompt_rows": 1}, 1),
    ],
)
def test_fewer_run_at_once_and_all_end(limits: dict[str, int], most: int) -> None:
    requests = [make_request(prompt, max_new_tokens=5) for prompt in PROMPTS]
    assert run(small_engine(**limits), requests) == most
    for request, prompt in zip(requests, PROMPTS, strict=True):
        assert request.result()[0].token_ids == expected_ids(prompt, 5)


def test_what_fits_nowhere_fails_and_the_others_go_on() -> None:
    engine = small_engine(cache_rows=1)
    lengths = [5, 80, 5]  # 64 positions are there, 80 need 96
    requests = [
        make_request(p, max_new_tokens=n) for p, n in zip(PROMPTS[:3], lengths, strict=True)
    ]
    run(engine, requests)
    with pytest.raises(GenerationError, match="there is no memory for the request: the device"):
        requests[1].result()
    for index in (0, 2):
        assert requests[index].result()[0].token_ids == expected_ids(PROMPTS[index], 5)


def test_without_memory_for_a_step_the_last_to_come_gives_way() -> None:
    engine = small_engine(decode_rows=4)
    requests = [make_request(prompt, max_new_tokens=5) for prompt in PROMPTS[:6]]
    run(engine, requests)
    outcomes = [request.error is None for request in requests]
    assert outcomes == [True] * 4 + [False] * 2
    assert engine.max_rows == 4
    more = [make_request(prompt, max_new_tokens=5) for prompt in PROMPTS]
    assert run(engine, more) == 4
    assert all(request.error is None for request in more)


def test_sequences_of_a_request_share_its_prompt_after_a_retreat() -> None:
    engine = small_engine(cache_rows=3)
    request = make_request([1, 2, 3], max_new_tokens=4, num_return_sequences=6)
    run(engine, [request])
    results = [result.token_ids for result in request.result()]
    assert results == [expected_ids([1, 2, 3], 4)] * 6


BEAMS: dict[str, Any] = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 9}


@pytest.mark.parametrize("limits", [{"cache_rows": 6}, {"prompt_rows": 2}])
def test_the_beams_of_a_search_run_all_at_once_or_not_yet(limits: dict[str, int]) -> None:
    requests = [
        make_request(prompt, **(BEAMS if index % 3 == 2 else {"max_new_tokens": 5}))
        for index, prompt in enumerate(PROMPTS)
    ]
    run(small_engine(**limits), requests)
    for index, (request, prompt) in enumerate(zip(requests, PROMPTS, strict=True)):
        found = [result.token_ids for result in request.result()]
        assert found == (searched(prompt, **BEAMS) if index % 3 == 2 else [expected_ids(prompt, 5)])


def test_a_search_for_which_too_few_rows_are_left_fails_and_the_others_go_on() -> None:
    engine = small_engine(decode_rows=3)
    alone = [make_request(prompt, max_new_tokens=5) for prompt in PROMPTS[:6]]
    search = make_request(PROMPTS[6], **BEAMS)
    last = make_request(PROMPTS[7], max_new_tokens=5)
    run(engine, [*alone, search, last])
    with pytest.raises(GenerationError, match="num_beams is 4, but only 3 sequences run at once"):
        search.result()
    assert last.result()[0].token_ids == expected_ids(PROMPTS[7], 5)


def test_without_memory_to_move_beams_their_search_fails_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def copy_rows(*_: Any) -> None:
        raise OutOfMemoryError("the device is out of memory")

    engine = small_engine()
    monkeypatch.setattr(engine._cache, "copy_rows", copy_rows)
    search, other = make_request(PROMPTS[0], **BEAMS), make_request(PROMPTS[1], max_new_tokens=9)
    run(engine, [other, search])
    with pytest.raises(GenerationError, match="there is no memory for the request"):
        search.result()
    assert other.result()[0].token_ids == expected_ids(PROMPTS[1], 9)


def test_errors_that_are_no_lack_of_memory_are_not_caught() -> None:
    engine = small_engine()
    engine._session.broken = True  # type: ignore[attr-defined]
    engine.add(make_request([1], max_new_tokens=2))
    with pytest.raises(MemoryError) as failed:
        engine.step()
    assert type(failed.value) is not OutOfMemoryError
    assert np.array(engine.running).size == 1
