"""The scheduler under random submits, cancels, timeouts and failures, on a model of no weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gpt2ja_onnx import GenerationConfig
from gpt2ja_onnx.bundle.manifest import ModelShape
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.engine.request import Request
from gpt2ja_onnx.errors import GenerationError, RequestTimeoutError

CURSED = 11  # a prompt that begins with it has broken scores at every seventh position
SHAPE = ModelShape(layers=1, width=8, heads=1, context=96, vocab_size=12, candidates=12)


class FakePlan:
    """Writes each token into the cache and answers with scores that depend on all cached ones."""

    def __init__(self, session: FakeSession, rows: int, new: int, caches: list[Any]) -> None:
        self.session = session
        self.caches = caches
        self.input_ids = np.zeros((rows, new), dtype=np.int64)
        self.position_ids = np.zeros((rows, new), dtype=np.int64)
        self.logit_positions = np.zeros((rows, 1), dtype=np.int64)
        self.lengths = np.zeros(rows, dtype=np.int32)
        self.logits = np.zeros((rows, 1, SHAPE.vocab_size), dtype=np.float32)

    def run(self) -> None:
        if self.session.broken:
            raise MemoryError("no memory left")
        for row, length in enumerate(self.lengths):
            start = self.position_ids[row, 0]
            new = self.input_ids[row, : length - start]
            self.caches[0][row, 0, start:length, 0] = new
            seen = self.caches[0][row, 0, :length, 0]
            weights = np.arange(1, length + 1)
            best = int((seen * weights).sum()) % SHAPE.vocab_size
            self.logits[row, 0] = -np.abs(np.arange(SHAPE.vocab_size) - best)
            if seen[0] == CURSED and length % 7 == 0:
                self.logits[row, 0, 3] = np.nan
        order = np.lexsort((np.broadcast_to(np.arange(12), self.logits.shape), -self.logits))
        self.candidate_ids = order
        self.candidate_scores = np.take_along_axis(self.logits, order, axis=2)


class FakeSession:
    shape = SHAPE
    prompt_tokens = 40
    call_tokens = 100
    broken = False

    def plan(self, rows: int, new: int, positions: int, caches: list[Any]) -> FakePlan:
        return FakePlan(self, rows, new, caches)


TOKENIZER = SimpleNamespace(
    piece_text=lambda ids: "".join(chr(97 + i) for i in ids),
    token_text=lambda token: chr(97 + token),
)


def expected_ids(prompt: list[int], count: int) -> list[int]:
    """What the fake model says greedily after a prompt."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int((np.array(ids) * np.arange(1, len(ids) + 1)).sum()) % SHAPE.vocab_size)
    return ids[len(prompt) :]


def searched(prompt: list[int], **settings: Any) -> list[list[int]]:
    """What the fake model's beams find when they are alone."""
    engine = Engine(FakeSession(), max_rows=4)  # type: ignore[arg-type]
    request = make_request(prompt, **settings)
    engine.add(request)
    while not engine.idle:
        engine.step()
    return [result.token_ids for result in request.result()]


def make_request(prompt: list[int], **settings: Any) -> Request:
    return Request(
        prompt="", prompt_index=0, prompt_ids=np.array(prompt, dtype=np.int64),
        config=GenerationConfig(**settings), tokenizer=TOKENIZER, eos=None, context=SHAPE.context,
    )  # fmt: skip


class Scheduling(RuleBasedStateMachine):
    """Rows belong to one request each, requests end once, and their tokens are their own.

    Requests finish, are cancelled, run out of time, fail by themselves, or fail with the engine.
    """

    @initialize(rows=st.integers(1, 5), memory=st.sampled_from([None, 12_000]))
    def start(self, rows: int, memory: int | None) -> None:
        self.session = FakeSession()
        self.memory = memory
        self.engine = Engine(self.session, max_rows=rows, max_memory=memory)  # type: ignore[arg-type]
        self.requests: list[Request] = []
        self.searched: dict[int, list[list[int]]] = {}

    @rule(
        prompt=st.lists(st.integers(0, 10), min_size=1, max_size=40),
        start=st.sampled_from([[], [CURSED], [1, 2, 3, 4] * 8]),
        new=st.integers(1, 70),
        sequences=st.integers(1, 4),
    )
    def submit(self, prompt: list[int], start: list[int], new: int, sequences: int) -> None:
        request = make_request(start + prompt, max_new_tokens=new, num_return_sequences=sequences)
        self.requests.append(request)
        self.engine.add(request)

    @rule(
        prompt=st.lists(st.integers(0, 10), min_size=1, max_size=40),
        new=st.integers(1, 30),
        beams=st.integers(2, 4),
        draw=st.booleans(),
    )
    def search(self, prompt: list[int], new: int, beams: int, draw: bool) -> None:
        settings = {"max_new_tokens": new, "num_beams": beams, "num_return_sequences": 2}
        settings |= {"do_sample": draw, "seed": 1, "top_k": 0}
        request = make_request(prompt, **settings)
        self.searched[id(request)] = searched(prompt, **settings)
        self.requests.append(request)
        self.engine.add(request)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.requests:
            data.draw(st.sampled_from(self.requests)).cancel()

    @rule(data=st.data())
    def time_out(self, data: st.DataObject) -> None:
        if self.requests:
            data.draw(st.sampled_from(self.requests)).deadline = 0.0

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
    def rows_and_requests_are_consistent(self) -> None:
        if not hasattr(self, "engine"):
            return
        running, waiting = self.engine.running, list(self.engine.waiting)
        assert len({id(s) for s in running + waiting}) == len(running) + len(waiting)
        assert len(running) <= self.engine.max_rows
        assert self.memory is None or self.engine._cache.buffer.nbytes <= self.memory
        for row, sequence in enumerate(running):
            assert not sequence.request.done
            assert sequence.finish_reason is None
            cached = self.engine._cache.buffer[0, row, 0, : sequence.length - 1, 0]
            np.testing.assert_array_equal(cached, sequence.state.history[:-1])
        # A sequence that waits may belong to a request that has failed, until it is looked at.
        live = {id(s.request) for s in running + waiting if not s.request.done}
        for request in self.requests:
            assert request.done == (id(request) not in live)
            for index, result in request.results.items():
                if id(request) in self.searched:
                    assert result.token_ids == self.searched[id(request)][index]
                    continue
                prompt = request.prompt_ids.tolist()
                assert result.token_ids == expected_ids(prompt, len(result.token_ids))

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(5000):
            if self.engine.idle:
                break
            self.engine.step()
        assert self.engine.idle
        for request in self.requests:
            assert request.done
            ends = []
            while not request._events.empty():
                ends.append(request._events.get())
            assert ends.count(None) == 1
            if request.error is None:
                assert len(request.results) == request.config.num_return_sequences
            first, last = len(request.prompt_ids), request.max_length
            broken = request.prompt_ids[0] == CURSED and any(
                length % 7 == 0 for length in range(first, last)
            )
            assert broken or "NaN" not in str(request.error)
            assert not broken or request.error is not None


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_ten_thousand_requests_leave_nothing_behind() -> None:
    engine = Engine(FakeSession(), max_rows=8)  # type: ignore[arg-type]
    for index in range(10_000):
        engine.add(make_request([index % 12, 3], max_new_tokens=1 + index % 3))
    while not engine.idle:
        engine.step()
    assert engine._cache.buffer.shape[1:4] == (8, 1, 64)
    assert len(engine._decode_plans) <= 8


def test_finished_rows_cost_nothing() -> None:
    """Static batches of 4 would take 8 + 8 steps; freed places bring it to the sum over 4 rows."""
    engine = Engine(FakeSession(), max_rows=4)  # type: ignore[arg-type]
    requests = [make_request([i], max_new_tokens=n) for i, n in enumerate([8, 2, 2, 2, 2, 2, 2, 8])]
    for request in requests:
        engine.add(request)
    steps = 0
    while not engine.idle:
        engine.step()
        steps += 1
    assert steps <= 10


def test_free_rows_are_given_away_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 rows two at a time, but where fewer wait, or none had to, one at once."""
    session = FakeSession()
    engine = Engine(session, max_rows=16)  # type: ignore[arg-type]
    prompts: list[int] = []  # rows of every call that computes some
    plan = session.plan

    def counting(rows: int, new: int, positions: int, caches: list[Any]) -> FakePlan:
        if new > 1:
            prompts.append(rows)
        return plan(rows, new, positions, caches)

    monkeypatch.setattr(session, "plan", counting)
    lengths = [*range(4, 20), *[30] * 5]
    for index, length in enumerate(lengths):
        engine.add(make_request([index % CURSED, 3], max_new_tokens=length))
    while not engine.idle:
        engine.step()
        if len(prompts) == 4 and len(engine.running) < 10:
            engine.add(make_request([5, 3], max_new_tokens=2))
            engine.step()
            assert len(prompts) == 5
    assert prompts == [16, 2, 2, 1, 1]


def test_a_free_row_is_given_away_before_long() -> None:
    engine = Engine(FakeSession(), max_rows=16)  # type: ignore[arg-type]
    for length in [4, *[60] * 15, *[60] * 3]:
        engine.add(make_request([1, 3], max_new_tokens=length))
    full = []
    for _ in range(12):
        engine.step()
        full.append(len(engine.running) == 16)
    assert full == [*[True] * 2, *[False] * 4, *[True] * 6]  # it ended in the third step


def test_short_requests_take_the_memory_that_a_long_one_leaves() -> None:
    memory = 4 * 64 * 64  # bytes; 64 a position: four rows of 64 positions, or two of 96
    engine = Engine(FakeSession(), max_rows=8, max_memory=memory)  # type: ignore[arg-type]
    prompts = [[row % CURSED, 3] for row in range(20)]
    requests = [make_request(prompt, max_new_tokens=10) for prompt in prompts]
    engine.add(make_request([1, 2, 3], max_new_tokens=70))
    for request in requests:
        engine.add(request)
    most = 0
    while not engine.idle:
        engine.step()
        assert engine._cache.buffer.nbytes <= memory
        most = max(most, len(engine.running))
    assert most == 4
    for request, prompt in zip(requests, prompts, strict=True):
        assert request.result()[0].token_ids == expected_ids(prompt, 10)


@pytest.mark.parametrize("length", [95, 96])
def test_the_last_positions_of_the_context(length: int) -> None:
    engine = Engine(FakeSession(), max_rows=2)  # type: ignore[arg-type]
    request = make_request([1] * length, max_new_tokens=5)
    engine.add(request)
    while not engine.idle:
        engine.step()
    (result,) = request.result()
    assert (result.finish_reason, result.completion_tokens) == ("context", 96 - length)


@pytest.mark.parametrize("settings", [{"num_return_sequences": 3}, {"num_beams": 3}])
def test_a_request_that_runs_out_of_time_while_it_is_admitted(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    slow, other = make_request([1, 2], **settings), make_request([1, 2, 3])
    # Three looks while it waits; the third sequence's turn comes when two have rows.
    looks = iter([*[None] * 5, RequestTimeoutError("late")])
    monkeypatch.setattr(Request, "overdue", lambda self: next(looks) if self is slow else None)
    engine = Engine(FakeSession(), max_rows=4)  # type: ignore[arg-type]
    engine.add(slow)
    engine.add(other)
    while not engine.idle:
        engine.step()
    assert isinstance(slow.error, RequestTimeoutError)
    assert other.result()[0].token_ids == expected_ids([1, 2, 3], 20)
