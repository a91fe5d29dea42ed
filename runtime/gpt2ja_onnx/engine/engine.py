"""Continuous batching: sequences enter and leave the running batch between two steps.

The engine is single-threaded: `gpt2ja_onnx.engine.worker` runs it. Row i of the cache belongs to
`running[i]`; a sequence that ends gives its row to the last one, so that the batch is always the
first rows of the cache and finished sequences cost nothing.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from gpt2ja_onnx.device.cpu.cache import KVCache
from gpt2ja_onnx.device.logits import joined
from gpt2ja_onnx.engine.advance import take_tokens
from gpt2ja_onnx.engine.prefill import Prefill, longest_prefix
from gpt2ja_onnx.engine.request import Request, Sequence
from gpt2ja_onnx.errors import GenerationError, OutOfMemoryError
from gpt2ja_onnx.sampling.sampler import Sampler

if TYPE_CHECKING:
    from gpt2ja_onnx.device.cpu.session import Plan, Session
    from gpt2ja_onnx.device.logits import Logits
    from gpt2ja_onnx.engine.beam_group import BeamGroup
    from gpt2ja_onnx.sampling.beam_search import Move
    from gpt2ja_onnx.sampling.warpers import Floats, Ids

# Seconds between two looks for waiting requests that were cancelled or have run out of time.
_SCAN_SECONDS = 0.05
# Prompts cost less together (four of 16 tokens 23 ms, one 10), so where sequences wait anyway, free
# rows stay free until they are this part of all, but no longer than so many steps.
_PART_TOGETHER, _STEPS_TOGETHER = 1 / 8, 4


class Engine:
    """Runs requests through one session.

    Args:
        session: The graph.
        max_rows: Sequences that run at once, at most.
        max_memory: Bytes that the cache may take; None leaves it to `max_rows`.
        cache: An empty cache of the session; None is one in main memory.

    Attributes:
        max_rows: Sequences that run at once, at most; less once the device was out of memory.
        waiting: Sequences that wait for a row, in the order in which they came.
        running: Sequences that have a row, by row.
    """

    def __init__(
        self,
        session: Session,
        *,
        max_rows: int,
        max_memory: int | None = None,
        cache: KVCache | None = None,
    ) -> None:
        self._session = session
        self.max_rows = max_rows
        self._max_memory = max_memory
        self._cache = KVCache(session.shape) if cache is None else cache
        self._prefill = Prefill(session, self._cache)
        self._sampler = Sampler()
        self._decode_plans: dict[int, Plan] = {}
        self._next_scan = 0.0
        self._full = False  # the device has no memory for one more, until one ends
        self._crowded = 0  # rows that ran when some last had to wait; 0 once none had to
        self._steps = 0  # since sequences were last admitted
        self._last_try: Sequence | None = None  # has the device for itself
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self.waiting and not self.running

    def add(self, request: Request) -> None:
        """Queue all sequences of a request; one that cannot ever fit fails at once."""
        beams = request.config.num_beams
        if beams > self.max_rows:
            request.fail(self._too_many_beams(beams))
            return
        needed = self._cache.bytes_needed(beams, request.max_length)
        if self._max_memory is not None and needed > self._max_memory:
            request.fail(
                GenerationError(
                    f"the request needs {needed} bytes of cache, max_memory is {self._max_memory}"
                )
            )
            return
        sequences = [Sequence(request, i) for i in range(request.config.num_return_sequences)]
        if len(request.prompt_ids) >= request.context:  # no room for even one token
            for sequence in sequences:
                sequence.finish_reason = "context"
                request.deliver(sequence, "")
        elif beams == 1:
            self.waiting += sequences
        else:
            from gpt2ja_onnx.engine.beam_group import BeamGroup  # most processes search nothing

            self.waiting += BeamGroup(request).sequences

    def step(self) -> None:
        """Drop what is overdue, admit what fits, and generate one token for every row."""
        self._drop_overdue()
        try:
            self._admit()
        except OutOfMemoryError as error:
            self._retreat(error)
        try:
            self._start()
            if self.running:
                self._decode()
        except OutOfMemoryError as error:
            self._give_up_last(error)

    def fail_all(self, error: GenerationError) -> None:
        """End every request with `error` and start anew with an empty cache."""
        for sequence in [*self.running, *self.waiting]:
            sequence.request.fail(error)
        self.running.clear()
        self.waiting.clear()
        self._decode_plans.clear()
        self._cache.clear()
        self._full = False

    # --- admission ---

    def _drop_overdue(self) -> None:
        for sequence in self.running:
            _fail_if_overdue(sequence.request)
        self._release_ended()
        if time.monotonic() < self._next_scan:
            return
        # Thousands may wait, so they are looked through now and then only.
        self._next_scan = time.monotonic() + _SCAN_SECONDS
        for sequence in self.waiting:
            _fail_if_overdue(sequence.request)
        self.waiting = deque(s for s in self.waiting if not s.request.done)

    def _admit(self) -> None:
        """Give rows to waiting sequences and compute their prompts."""
        if self._gathers():
            return
        fresh: list[Sequence] = []  # have a row, but nothing in it yet
        while self.waiting:
            sequence = self.waiting[0]
            _fail_if_overdue(sequence.request)
            if sequence.request.done:
                self.waiting.popleft()
                continue
            if not self._fits(sequence):
                if self.running:
                    break
                sequence.request.fail(self._too_many_beams(sequence.rows))
                continue
            row = len(self.running)
            try:
                self._reserve(row + sequence.rows, self._positions(sequence))
            except OutOfMemoryError:
                if not self.running:
                    raise
                self._full = True
                break
            prefix = longest_prefix(sequence, self.running)
            if prefix is not None:  # may be a fresh one's; and fresh rows must stay consecutive
                self._prefill.compute(fresh, row - len(fresh))
                fresh = []
            self.running.append(self.waiting.popleft())
            if prefix is None:
                fresh.append(sequence)
            else:
                self._prefill.compute_behind(prefix, sequence, row)
        self._prefill.compute(fresh, len(self.running) - len(fresh))
        self._crowded = len(self.running) if self.waiting else 0
        self._steps = 0

    def _gathers(self) -> bool:
        """Whether free rows stay free for some steps, until there are more of them."""
        self._steps += 1
        free = self._crowded - len(self.running)
        enough = min(_PART_TOGETHER * self._crowded, len(self.waiting))
        return 0 < free < enough and self._steps < _STEPS_TOGETHER

    def _start(self) -> None:
        """Generate the first token of the sequences whose prompts have been computed."""
        started = [
            s
            for s in self.running
            if s.length == s.state.prompt_length and not s.request.done  # it may have timed out
        ]
        choices = [s.request.first_choice for s in started if s.request.first_choice is not None]
        if choices:
            self._take(started, *map(joined, zip(*choices, strict=True)))
        self._release_ended()

    def _fits(self, sequence: Sequence) -> bool:
        rows = len(self.running) + sequence.rows
        if rows > self.max_rows or self._full:
            return False
        if self._max_memory is None:
            return True
        return self._cache.bytes_needed(rows, self._positions(sequence)) <= self._max_memory

    def _positions(self, sequence: Sequence) -> int:
        """Positions a row that the running sequences need, and `sequence` beside them."""
        return max(s.request.max_length for s in [sequence, *self.running])

    def _too_many_beams(self, beams: int) -> GenerationError:
        return GenerationError(
            f"num_beams is {beams}, but only {self.max_rows} sequences run at once; take fewer "
            "beams, a larger batch_size, or a device with more memory"
        )

    def _reserve(self, rows: int, positions: int) -> None:
        if rows > self._cache.rows and self._max_memory is None:
            rows = min(self.max_rows, max(rows, 2 * self._cache.rows))
        if self._cache.reserve(rows, positions, len(self.running), self._max_memory):
            self._decode_plans.clear()

    # --- out of memory ---

    def _retreat(self, error: OutOfMemoryError) -> None:
        """Let wait again what is not begun, and admit nothing more until something ends.

        With nothing begun, half as many are tried, though no fewer than the beams of one search;
        what has the device for itself and still does not fit fails.
        """
        begun = [s for s in self.running if s.length > s.state.prompt_length]
        self.waiting.extendleft(reversed(self.running[len(begun) :]))
        largest = max((s.rows for s in self.running[len(begun) :]), default=1)
        tried = max((row + s.rows for row, s in enumerate(self.running)), default=0)
        self.running = begun
        self._decode_plans.clear()
        if begun:
            self._full = True
            return
        self._full = False
        self._cache.clear()
        if tried > largest:
            self.max_rows = max(tried // 2, largest)
        elif self._last_try is self.waiting[0]:
            self._last_try = None
            self.waiting[0].request.fail(_no_memory(error))
        else:
            self._last_try = self.waiting[0]

    def _give_up_last(self, error: OutOfMemoryError) -> None:
        """End the request that came last: there is no memory for a step of all rows."""
        self.running[-1].request.fail(_no_memory(error))
        self.max_rows = max(1, len(self.running) - 1)
        self._decode_plans.clear()
        self._release_ended()

    # --- decoding ---

    def _decode(self) -> None:
        rows = len(self.running)
        plan = self._decode_plans.get(rows)
        if plan is None:
            plan = self._session.plan(rows, 1, 1, self._cache.slices(0, rows))
            self._decode_plans[rows] = plan
        for row, sequence in enumerate(self.running):
            length = sequence.length
            plan.input_ids[row, 0] = sequence.state.history[-1]
            plan.position_ids[row, 0] = length - 1
            plan.lengths[row] = length
        plan.run()
        self._take(
            self.running, plan.candidate_scores[:, 0], plan.candidate_ids[:, 0], plan.logits[:, 0]
        )
        self._release_ended()

    def _take(self, sequences: list[Sequence], scores: Floats, ids: Ids, logits: Logits) -> None:
        """Take a token for each sequence, and move the rows of beams accordingly."""
        for group, moves in take_tokens(self._sampler, sequences, scores, ids, logits):
            try:
                self._move_beams(group, moves)
            except OutOfMemoryError as error:  # its rows are of no use now
                group.sequences[0].request.fail(_no_memory(error))

    def _move_beams(self, group: BeamGroup, moves: list[Move]) -> None:
        """Copy the rows of beams that go on from another beam's text, some at once."""
        row = {beam: self.running.index(sequence) for beam, sequence in enumerate(group.sequences)}
        length = group.sequences[0].length - 1
        for start in sorted({move.start for move in moves}):
            alike = [move for move in moves if move.start == start]
            sources = [row[move.source] for move in alike]
            targets = [row[move.target] for move in alike]
            self._cache.copy_rows(sources, targets, length, start)

    def _release_ended(self) -> None:
        """Give the rows of ended sequences to the last ones."""
        if not any(s.finish_reason is not None or s.request.done for s in self.running):
            return
        for row in range(len(self.running) - 1, -1, -1):
            sequence = self.running[row]
            if sequence.finish_reason is None and not sequence.request.done:
                continue
            self._full = False
            last = self.running[-1]
            if last is not sequence:
                self._cache.copy(len(self.running) - 1, row, last.length)
                self.running[row] = last
            self.running.pop()


def _fail_if_overdue(request: Request) -> None:
    error = request.overdue()
    if error is not None:
        request.fail(error)


def _no_memory(error: OutOfMemoryError) -> GenerationError:
    failure = GenerationError(f"there is no memory for the request: {error}")
    failure.__cause__ = error
    return failure
