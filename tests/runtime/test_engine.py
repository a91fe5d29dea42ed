"""The scheduler under random submits, cancels, timeouts and failures, on a model of no weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gpt2ja_bench.running.memory import peak_memory, reset_peak_memory
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.device.cpu.cache import CpuCache
from gpt2ja_onnx.device.cpu.session import CpuSession
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.engine.group import SequenceGroup
from gpt2ja_onnx.engine.scoring import ScoringJob
from gpt2ja_onnx.errors import CancelledError, GenerationError, RequestTimeoutError
from gpt2ja_onnx.settings.keywords import Settings
from tests.fakes import (
    CURSED,
    SHAPE,
    FakeSession,
    expected_ids,
    make_group,
    run,
    searched,
    token_ids,
)

if TYPE_CHECKING:
    from pathlib import Path


def keys(engine: Engine) -> np.ndarray:
    cache = engine.batch.cache
    assert isinstance(cache, CpuCache)
    return cache.parts[0]


class Scheduling(RuleBasedStateMachine):
    """Rows belong to one group each, groups end once, and their tokens are their own.

    Groups finish, are cancelled, run out of time, fail by themselves, or fail with the engine.
    """

    @initialize(rows=st.integers(1, 5), memory=st.sampled_from([None, 18_000]))
    def start(self, rows: int, memory: int | None) -> None:
        self.session = FakeSession()
        self.memory = memory
        self.engine = Engine(self.session, max_rows=rows, max_memory=memory)
        self.groups: list[SequenceGroup] = []
        self.searched: dict[SequenceGroup, list[list[int]]] = {}

    @rule(
        prompt=st.lists(st.integers(0, 10), min_size=1, max_size=40),
        start=st.sampled_from([[], [CURSED], [1, 2, 3, 4] * 8]),
        new=st.integers(1, 70),
        sequences=st.integers(1, 4),
    )
    def submit(self, prompt: list[int], start: list[int], new: int, sequences: int) -> None:
        group = make_group(start + prompt, max_new_tokens=new, num_return_sequences=sequences)
        self.groups.append(group)
        self.engine.add(group)

    @rule(
        prompt=st.lists(st.integers(0, 10), min_size=1, max_size=40),
        new=st.integers(1, 30),
        beams=st.integers(2, 4),
        draw=st.booleans(),
    )
    def search(self, prompt: list[int], new: int, beams: int, draw: bool) -> None:
        chosen = Settings(
            max_new_tokens=new, num_beams=beams, num_return_sequences=2, do_sample=draw, seed=1,
            top_k=0,
        )  # fmt: skip
        group = make_group(prompt, **chosen)
        self.searched[group] = searched(prompt, **chosen)
        self.groups.append(group)
        self.engine.add(group)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.groups:
            data.draw(st.sampled_from(self.groups)).cancelled = True

    @rule(data=st.data())
    def time_out(self, data: st.DataObject) -> None:
        if self.groups:
            data.draw(st.sampled_from(self.groups)).deadline = 0.0

    @rule(steps=st.integers(1, 20))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.engine.step()

    @rule()
    def fail(self) -> None:
        self.session.broken = True
        try:
            self.engine.step()
        except MemoryError as error:
            self.engine.fail_all(GenerationError(str(error)))
        self.session.broken = False

    @invariant()
    def rows_and_groups_are_consistent(self) -> None:
        if not hasattr(self, "engine"):
            return
        running, waiting = self.engine.batch.running, self.engine.scheduler.waiting
        assert len(set(map(id, running))) == len(running)
        assert len(set(map(id, waiting))) == len(waiting)
        assert len(running) <= self.engine.scheduler.max_rows
        assert self.memory is None or self.engine.batch.cache.nbytes <= self.memory
        for row, sequence in enumerate(running):
            assert not sequence.ended
            cached = keys(self.engine)[row, 0, : sequence.length - 1, 0]
            np.testing.assert_array_equal(cached, sequence.state.history[:-1])
        # A group that waits may have failed, until it is looked at.
        live = {id(s.group) for s in running} | {id(g) for g in waiting if not g.done}
        for group in self.groups:
            units = {s.index if s.search is None else 0 for s in running if s.group is group}
            assert group.running == len(units)
            assert group.done == (id(group) not in live)
            for index, finished in group.finished.items():
                if group in self.searched:
                    assert finished.token_ids == self.searched[group][index]
                    continue
                prompt = group.prompt_ids.tolist()
                assert finished.token_ids == expected_ids(prompt, len(finished.token_ids))

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        run(self.engine, [])
        for group in self.groups:
            assert group.done
            ended = 0
            while (chunk := group.channel.get()) is not None:
                ended += chunk.finish_reason is not None
            assert ended == len(group.finished)
            if group.error is None:
                assert ended == group.config.num_return_sequences
            first, last = len(group.prompt_ids), group.max_length
            broken = group.prompt_ids[0] == CURSED and any(
                length % 7 == 0 for length in range(first, last)
            )
            assert broken or "NaN" not in str(group.error)
            assert not broken or group.error is not None


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_ten_thousand_requests_leave_nothing_behind() -> None:
    engine = Engine(FakeSession(), max_rows=8)
    groups = [make_group([i % 12, 3], max_new_tokens=1 + i % 3) for i in range(10_000)]
    run(engine, groups, steps=50_000)
    assert keys(engine).shape[:3] == (8, 1, 64)
    engine.trim()
    assert engine.batch.cache.nbytes == 0


def test_finished_rows_cost_nothing() -> None:
    """Static batches of 4 would take 8 + 8 steps; freed places bring it to the sum over 4 rows."""
    engine = Engine(FakeSession(), max_rows=4)
    for index, count in enumerate([8, 2, 2, 2, 2, 2, 2, 8]):
        engine.add(make_group([index], max_new_tokens=count))
    steps = 0
    while not engine.idle:
        engine.step()
        steps += 1
    assert steps <= 10


def test_free_rows_are_given_away_together() -> None:
    """Of 16 rows two at a time, but where fewer wait, or none had to, one at once."""
    session = FakeSession()
    engine = Engine(session, max_rows=16)
    lengths = [*range(4, 20), *[30] * 5]
    for index, length in enumerate(lengths):
        engine.add(make_group([index % CURSED, 3], max_new_tokens=length))
    while not engine.idle:
        engine.step()
        if len(session.planned) == 4 and len(engine.batch) < 10:
            engine.add(make_group([5, 3], max_new_tokens=2))
            engine.step()
            assert len(session.planned) == 5
    assert [rows for rows, _ in session.planned] == [16, 2, 2, 1, 1]


def test_a_free_row_is_given_away_before_long() -> None:
    engine = Engine(FakeSession(), max_rows=16)
    for length in [4, *[60] * 15, *[60] * 3]:
        engine.add(make_group([1, 3], max_new_tokens=length))
    full = []
    for _ in range(12):
        engine.step()
        full.append(len(engine.batch) == 16)
    assert full == [*[True] * 2, *[False] * 4, *[True] * 6]  # it ended in the third step


def test_short_requests_take_the_memory_that_a_long_one_leaves() -> None:
    # Four rows of 64 positions, or two of 96; 64 bytes a position, and a half for moving.
    memory = 4 * 64 * 64 * 3 // 2
    engine = Engine(FakeSession(), max_rows=8, max_memory=memory)
    prompts = [[row % CURSED, 3] for row in range(20)]
    groups = [make_group(prompt, max_new_tokens=10) for prompt in prompts]
    engine.add(make_group([1, 2, 3], max_new_tokens=70))
    for group in groups:
        engine.add(group)
    most = 0
    while not engine.idle:
        engine.step()
        assert engine.batch.cache.nbytes <= memory
        most = max(most, len(engine.batch))
    assert most == 4
    for group, prompt in zip(groups, prompts, strict=True):
        assert token_ids(group) == [expected_ids(prompt, 10)]


@pytest.mark.parametrize("length", [95, 96])
def test_the_last_positions_of_the_context(length: int) -> None:
    group = make_group([1] * length, max_new_tokens=5)
    run(Engine(FakeSession(), max_rows=2), [group])
    (sequence,) = group.finished.values()
    assert (sequence.finish_reason, len(sequence.token_ids)) == ("context", 96 - length)


@pytest.mark.parametrize("chosen", [{"num_return_sequences": 3}, {"num_beams": 3}])
def test_a_request_that_runs_out_of_time_while_it_is_admitted(
    monkeypatch: pytest.MonkeyPatch, chosen: Settings
) -> None:
    slow, other = make_group([1, 2], **chosen), make_group([1, 2, 3])
    looks = iter(range(100))
    fail_if_overdue = SequenceGroup.fail_if_overdue

    def late(group: SequenceGroup) -> None:
        if group is slow and next(looks) == 2:
            group.fail(RequestTimeoutError("late"))
        fail_if_overdue(group)

    monkeypatch.setattr(SequenceGroup, "fail_if_overdue", late)
    run(Engine(FakeSession(), max_rows=4), [slow, other])
    assert isinstance(slow.error, RequestTimeoutError)
    assert token_ids(other) == [expected_ids([1, 2, 3], 20)]


# --- fairness ---


def steps_until_done(engine: Engine, group: SequenceGroup) -> int:
    for step in range(1, 10_000):
        engine.step()
        if group.done:
            return step
    raise AssertionError("never done")


def test_a_narrow_request_does_not_wait_for_a_wide_one() -> None:
    engine = Engine(FakeSession(), max_rows=8)
    engine.add(make_group([1, 2], max_new_tokens=20, num_return_sequences=600))
    for _ in range(5):
        engine.step()
    narrow = make_group([3, 4], max_new_tokens=1)
    engine.add(narrow)
    assert steps_until_done(engine, narrow) <= 24  # until one of the wide one's rows is free


def test_two_wide_requests_share_the_rows() -> None:
    engine = Engine(FakeSession(), max_rows=8)
    wide = [make_group([i, 2], max_new_tokens=8 + i, num_return_sequences=100) for i in range(2)]
    for group in wide:
        engine.add(group)
    for _ in range(60):
        engine.step()
    assert abs(wide[0].running - wide[1].running) <= 1


def test_a_search_is_not_starved_by_narrow_requests() -> None:
    """It needs four rows at once, while a new narrow request comes in every step."""
    engine = Engine(FakeSession(), max_rows=4)
    for index in range(4):
        engine.add(make_group([index, 1], max_new_tokens=5 + index))
    engine.step()
    search = make_group([7, 8], num_beams=4, max_new_tokens=5)
    engine.add(search)
    for step in range(200):
        engine.add(make_group([step % CURSED, 2], max_new_tokens=5))
        engine.step()
        if search.done:
            break
    # Passed by four times at most, then until the rows are free: three lengths of a text or so.
    assert step <= 25
    assert search.error is None


def test_narrow_requests_pass_a_search_that_has_to_wait() -> None:
    engine = Engine(FakeSession(), max_rows=4)
    engine.add(make_group([1, 1], max_new_tokens=60))
    engine.step()
    engine.add(make_group([7, 8], num_beams=4, max_new_tokens=5))
    narrow = make_group([2, 3], max_new_tokens=2)
    engine.add(narrow)
    assert steps_until_done(engine, narrow) <= 4


def make_job(calls: int) -> ScoringJob:
    """Texts that take so many calls of the graph: 128 of two tokens each."""
    return ScoringJob([[1, 2]] * (128 * calls), SHAPE.context, SHAPE.context // 2)


def test_a_short_text_to_score_does_not_wait_for_long_ones() -> None:
    engine = Engine(FakeSession(), max_rows=4)
    long, short = make_job(50), make_job(1)
    engine.add(long)
    for _ in range(5):
        engine.step()
    engine.add(short)
    for _ in range(6):
        engine.step()
    assert (short.done, long.done) == (True, False)


def test_generation_and_scoring_take_turns() -> None:
    engine = Engine(FakeSession(), max_rows=4)
    long, narrow = make_job(50), make_group([1, 2], max_new_tokens=5)
    engine.add(long)
    engine.step()
    engine.add(narrow)
    steps_until_done(engine, narrow)
    assert not long.done
    run(engine, [])
    wide, short = make_group([1, 2], num_return_sequences=600), make_job(1)
    engine.add(wide)
    engine.step()
    engine.add(short)
    for _ in range(30):
        engine.step()
    assert (short.done, wide.done) == (True, False)


def test_scoring_that_nobody_wants_ends_at_the_next_step() -> None:
    engine = Engine(FakeSession(), max_rows=4)
    unwanted, other = make_job(50), make_job(2)
    for job in (unwanted, other):
        engine.add(job)
    engine.step()
    unwanted.cancelled = True
    engine.step()
    assert isinstance(unwanted.error, CancelledError)
    for _ in range(8):
        engine.step()
    assert (other.done, other.error, engine.idle) == (True, None, True)


def test_memory_comes_back_when_long_requests_are_over() -> None:
    engine = Engine(FakeSession(), max_rows=4)
    run(engine, [make_group([i, 2], max_new_tokens=90) for i in range(4)])
    long = engine.batch.cache.nbytes
    run(engine, [make_group([i % CURSED, 2], max_new_tokens=4) for i in range(1500)])
    assert engine.batch.cache.nbytes < long
    assert keys(engine).shape[2] == 64


def large_cache() -> CpuCache:
    session = FakeSession()
    session.shape = replace(SHAPE, layers=12, width=64, context=1024)
    return CpuCache(session)


def test_a_budget_holds_while_the_cache_moves() -> None:
    cache = large_cache()
    budget = cache.bytes_needed(8, 320)
    reset_peak_memory()
    before = peak_memory()
    cache.reserve(8, 256, 0, budget)
    for part in cache.parts:
        part[:] = 1
    cache.reserve(8, 320, 8, budget)
    assert cache.nbytes * 3 / 4 < peak_memory() - before <= budget + 2**20
    assert all((part[:8, :, :256] == 1).all() for part in cache.parts)


def test_memory_comes_as_positions_are_written() -> None:
    cache = large_cache()
    reset_peak_memory()
    before = peak_memory()
    cache.reserve(64, 1024, 0)
    for part in cache.parts:
        part[:, :, :64] = 1
    assert peak_memory() - before < cache.nbytes / 8


def test_what_is_admitted_together_is_not_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    resize = CpuCache._resize

    def recorded(self: CpuCache, rows: int, capacity: int, used_rows: int) -> None:
        moved.append(used_rows)
        resize(self, rows, capacity, used_rows)

    monkeypatch.setattr(CpuCache, "_resize", recorded)
    engine = Engine(FakeSession(), max_rows=8)
    first = [make_group([i, 2], max_new_tokens=9) for i in range(3)]
    for group in first:
        engine.add(group)
    engine.step()
    assert set(moved) == {0}
    moved.clear()
    second = [make_group([i, 3], max_new_tokens=9) for i in range(5)]
    run(engine, second)
    assert set(moved) == {3}
    for group in first + second:
        assert token_ids(group) == [expected_ids(group.prompt_ids.tolist(), 9)]


def test_one_buffer_serves_every_number_of_rows(bundles: dict[str, Path]) -> None:
    session = CpuSession(bundles["int8"], read_manifest(bundles["int8"]), threads=1)
    cache = session.new_cache()
    cache.reserve(16, 64, 0)
    logits = [cache.decode_plan(rows).all_logits() for rows in range(1, 17)]
    assert all(np.shares_memory(logits[-1], each) for each in logits)


def test_sequences_that_wait_take_no_memory_of_their_length() -> None:
    import tracemalloc

    engine = Engine(FakeSession(), max_rows=2)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    engine.add(make_group([1, 2], max_new_tokens=90, num_return_sequences=4096))
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken < 4096 * 90  # a byte a token; ids alone would take eight


# --- one row's work never reaches another ---


def failing(history: np.ndarray, scores: np.ndarray) -> np.ndarray:
    raise ZeroDivisionError("by zero")


@pytest.mark.parametrize("beams", [1, 2])
def test_a_callable_that_fails_ends_its_request_alone(beams: int) -> None:
    groups = [
        make_group([1, 2], max_new_tokens=5),
        make_group([3, 4], max_new_tokens=5, logits_processors=[failing], num_beams=beams),
        make_group([5, 6], max_new_tokens=5, do_sample=True, seed=3),
    ]
    run(Engine(FakeSession(), max_rows=8), groups)
    assert token_ids(groups[0]) == [expected_ids([1, 2], 5)]
    assert len(token_ids(groups[2])[0]) == 5
    with pytest.raises(GenerationError, match="logits processor failing failed: by zero"):
        token_ids(groups[1])


def test_a_text_that_cannot_be_spelled_ends_its_request_alone() -> None:
    class Broken:
        def token_text(self, token: int) -> str:
            raise KeyError(token)

    groups = [make_group([1, 2], max_new_tokens=5), make_group([3, 4], max_new_tokens=5)]
    groups[1].tokenizer = Broken()
    run(Engine(FakeSession(), max_rows=8), groups)
    assert token_ids(groups[0]) == [expected_ids([1, 2], 5)]
    with pytest.raises(GenerationError, match="the request failed"):
        token_ids(groups[1])


@pytest.mark.parametrize(
    "extreme",
    [
        Settings(top_k=2**31 - 1, do_sample=True),
        Settings(temperature=1e-45, do_sample=True, top_k=0),
        Settings(temperature=1e30, do_sample=True),
        Settings(repetition_penalty=1e30),
        Settings(repetition_penalty=1e-45),
        Settings(no_repeat_ngram_size=2**31 - 1),
        Settings(max_new_tokens=2**31 - 1),
        Settings(exponential_decay_length_penalty=(0, 1e3), eos_token_id=5),
        Settings(length_penalty=-50, num_beams=3),
        Settings(eta_cutoff=1e-300, epsilon_cutoff=1e-300, do_sample=True),
        Settings(typical_p=1e-300, min_p=1.0, top_p=1e-300, do_sample=True),
    ],
)
def test_no_setting_that_is_taken_reaches_other_requests(extreme: Settings) -> None:
    groups = [make_group([1, 2], max_new_tokens=9), make_group([3, 4], **extreme)]
    run(Engine(FakeSession(), max_rows=8), groups)
    assert token_ids(groups[0]) == [expected_ids([1, 2], 9)]
    assert len(token_ids(groups[1])) == 1
