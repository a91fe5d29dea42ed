"""A device without room: fewer requests run at once, and only what fits nowhere fails."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from gpt2ja_onnx.device.cpu.cache import CpuCache
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.errors import GenerationError, OutOfMemoryError
from gpt2ja_onnx.settings.keywords import Settings
from tests.fakes import (
    CURSED,
    FakePlan,
    FakeSession,
    expected_ids,
    make_group,
    run,
    searched,
    token_ids,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

PROMPTS = [[i % CURSED, 3, (7 * i) % 12] for i in range(12)]


class SmallCache(CpuCache):
    """Has room for `limit` bytes, and for nothing beside the old memory while it is in use."""

    limit = 0

    def _allocate(self, rows: int, capacity: int, size: int) -> NDArray[np.generic]:
        if self.bytes_needed(rows, capacity) > self.limit:
            raise OutOfMemoryError("the device is out of memory")
        return super()._allocate(rows, capacity, size)


class SmallSession(FakeSession):
    """Has room for some rows of cache, for prompts over some rows, and steps over some rows."""

    def __init__(self, cache_rows: int = 1000, prompts: int = 1000, decodes: int = 1000) -> None:
        super().__init__()
        self.cache_rows, self.prompts, self.decodes = cache_rows, prompts, decodes

    def new_cache(self) -> SmallCache:
        cache = SmallCache(self)
        cache.limit = cache.bytes_needed(self.cache_rows, 64)
        return cache

    def plan(
        self, caches: Sequence[NDArray[np.generic]], rows: int, new: int, positions: int
    ) -> FakePlan:
        if rows > self.prompts:
            raise OutOfMemoryError("the device is out of memory")
        return super().plan(caches, rows, new, positions)

    def decode_plans(self, caches: Sequence[NDArray[np.generic]]) -> Callable[[int], FakePlan]:
        plans = super().decode_plans(caches)

        def plan(rows: int) -> FakePlan:
            if rows > self.decodes:
                raise OutOfMemoryError("the device is out of memory")
            return plans(rows)

        return plan


def small_engine(**limits: int) -> Engine:
    return Engine(SmallSession(**limits), max_rows=8)


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({}, 8),
        ({"cache_rows": 3}, 2),  # the cache doubles: 1, 2, but not 4
        ({"prompts": 3}, 6),  # prompts of half of 8 at once, and half of that
        ({"prompts": 1}, 3),  # of five tokens each
    ],
)
def test_fewer_run_at_once_and_all_end(limits: dict[str, int], most: int) -> None:
    requests = [make_group(prompt, max_new_tokens=5) for prompt in PROMPTS]
    assert run(small_engine(**limits), requests) == most
    for request, prompt in zip(requests, PROMPTS, strict=True):
        assert token_ids(request) == [expected_ids(prompt, 5)]


def test_what_fits_nowhere_fails_and_the_others_go_on() -> None:
    engine = small_engine(cache_rows=1)
    lengths = [5, 80, 5]  # 64 positions are there, 80 need 96
    requests = [make_group(p, max_new_tokens=n) for p, n in zip(PROMPTS[:3], lengths, strict=True)]
    run(engine, requests)
    with pytest.raises(GenerationError, match="there is no memory for the request: the device"):
        token_ids(requests[1])
    for index in (0, 2):
        assert token_ids(requests[index]) == [expected_ids(PROMPTS[index], 5)]


def test_without_memory_for_a_step_the_last_to_come_gives_way() -> None:
    engine = small_engine(decodes=4)
    requests = [make_group(prompt, max_new_tokens=5) for prompt in PROMPTS[:6]]
    run(engine, requests)
    outcomes = [request.error is None for request in requests]
    assert outcomes == [True] * 4 + [False] * 2
    assert engine.scheduler.max_rows == 4
    more = [make_group(prompt, max_new_tokens=5) for prompt in PROMPTS]
    assert run(engine, more) == 4
    assert all(request.error is None for request in more)


def test_sequences_of_a_request_share_its_prompt_after_a_retreat() -> None:
    engine = small_engine(cache_rows=3)
    request = make_group([1, 2, 3], max_new_tokens=4, num_return_sequences=6)
    run(engine, [request])
    assert token_ids(request) == [expected_ids([1, 2, 3], 4)] * 6


BEAMS = Settings(num_beams=4, num_return_sequences=4, max_new_tokens=9)


@pytest.mark.parametrize("limits", [{"cache_rows": 6}, {"prompts": 2}])
def test_the_beams_of_a_search_run_all_at_once_or_not_yet(limits: dict[str, int]) -> None:
    requests = [
        make_group(prompt, **(BEAMS if index % 3 == 2 else Settings(max_new_tokens=5)))
        for index, prompt in enumerate(PROMPTS)
    ]
    run(small_engine(**limits), requests)
    for index, (request, prompt) in enumerate(zip(requests, PROMPTS, strict=True)):
        found = token_ids(request)
        assert found == (searched(prompt, **BEAMS) if index % 3 == 2 else [expected_ids(prompt, 5)])


def test_a_search_for_which_too_few_rows_are_left_fails_and_the_others_go_on() -> None:
    engine = small_engine(decodes=3)
    alone = [make_group(prompt, max_new_tokens=5) for prompt in PROMPTS[:6]]
    search = make_group(PROMPTS[6], **BEAMS)
    last = make_group(PROMPTS[7], max_new_tokens=5)
    run(engine, [*alone, search])
    run(engine, [last])
    with pytest.raises(GenerationError, match="num_beams is 4, but only 3 sequences run at once"):
        token_ids(search)
    assert token_ids(last) == [expected_ids(PROMPTS[7], 5)]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("copy_rows", BEAMS),  # of beams that move
        ("copy", Settings(num_return_sequences=3, max_new_tokens=9)),  # of a prompt that is shared
    ],
)
def test_without_memory_to_copy_rows_their_request_fails_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, settings: Settings
) -> None:
    def copy(*_: object) -> None:
        raise OutOfMemoryError("the device is out of memory")

    engine = small_engine()
    monkeypatch.setattr(engine.batch.cache, name, copy)
    several, other = make_group(PROMPTS[0], **settings), make_group(PROMPTS[1], max_new_tokens=9)
    run(engine, [other, several])
    with pytest.raises(GenerationError, match="there is no memory for the request"):
        token_ids(several)
    assert token_ids(other) == [expected_ids(PROMPTS[1], 9)]


def test_errors_that_are_no_lack_of_memory_are_not_caught() -> None:
    session = FakeSession()
    engine = Engine(session, max_rows=8)
    session.broken = True
    engine.add(make_group([1], max_new_tokens=2))
    with pytest.raises(MemoryError) as failed:
        engine.step()
    assert type(failed.value) is not OutOfMemoryError
    assert len(engine.batch) == 1


def test_memory_that_the_system_refuses_leaves_the_cache_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = FakeSession().new_cache()
    cache.reserve(2, 64, 0)
    for part in cache.parts:
        part[:] = 1

    def refuse(nbytes: int) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr("gpt2ja_onnx.device.cpu.cache._anonymous", refuse)
    with pytest.raises(OutOfMemoryError, match="bytes for the cache"):
        cache.reserve(4, 64, 2)
    assert all(part.shape[:3] == (2, 1, 64) and (part == 1).all() for part in cache.parts)
