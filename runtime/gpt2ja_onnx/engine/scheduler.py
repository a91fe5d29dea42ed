"""Which waiting sequences get rows, and when: rows are shared out by request."""

from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING

from gpt2ja_onnx.engine.sequence import Sequence
from gpt2ja_onnx.errors import GenerationError, OutOfMemoryError

if TYPE_CHECKING:
    from gpt2ja_onnx.engine.batch import Batch
    from gpt2ja_onnx.engine.group import SequenceGroup

# Seconds between two looks for waiting groups that were cancelled or have run out of time.
_SCAN_SECONDS = 0.05
# Prompts cost less together (four of 16 tokens 23 ms, one 10), so where sequences wait anyway, free
# rows stay free until they are this part of all, but no longer than so many steps.
_PART_TOGETHER, _STEPS_TOGETHER = 1 / 8, 4
# Steps between two looks whether the cache is larger than it was needed since the last one.
_SHRINK_STEPS = 512


class Scheduler:
    """Gives rows to waiting sequences.

    The next row goes to the group that has the fewest, and of those to the one that came first: a
    wide request takes what others leave, and none waits for a wide one's end. A unit that needs
    more than is free (a search, or a long text where memory is short) is passed by as often as
    there are rows; then rows are kept for it.

    Args:
        batch: The running sequences.
        max_rows: Sequences that run at once, at most.
        max_memory: Bytes that the cache may take; None leaves it to `max_rows`.

    Attributes:
        max_rows: Sequences that run at once, at most; less once the device was out of memory.
        units_at_once: Units whose prompts are computed in one step, at most; likewise less.
        full: Whether the device has no memory for one more, until one ends.
        waiting: The groups with units that have no rows yet, by arrival.
    """

    def __init__(self, batch: Batch, *, max_rows: int, max_memory: int | None) -> None:
        self._batch = batch
        self._cache = batch.cache
        self.max_rows = max_rows
        self._max_memory = max_memory
        self.units_at_once = max_rows
        self.full = False
        self.waiting: list[SequenceGroup] = []
        self._arrivals = 0
        self._next_scan = 0.0
        self._crowded = 0  # rows that ran when some last had to wait; 0 once none had to
        self._steps = 0  # since sequences were last admitted
        self._needed = (0, 0)  # most rows and positions since the last look at the cache
        self._until_shrink = _SHRINK_STEPS

    def add(self, group: SequenceGroup) -> None:
        """Queue a group; one that cannot ever fit fails at once."""
        if group.rows > self.max_rows:
            group.fail(self._too_many_beams(group.rows))
            return
        needed = self._cache.bytes_needed(group.rows, group.max_length)
        if self._max_memory is not None and needed > self._max_memory:
            group.fail(
                GenerationError(
                    f"the request needs {needed} bytes of cache, max_memory is {self._max_memory}"
                )
            )
        elif len(group.prompt_ids) >= group.context:  # no room for even one token
            for index in range(group.config.num_return_sequences):
                Sequence(group, index).end_without_room()
        else:
            self._arrivals += 1
            group.arrival = self._arrivals
            self.waiting.append(group)

    def drop_overdue(self) -> None:
        """End groups that were cancelled or have run out of time."""
        for sequence in self._batch.running:
            sequence.group.fail_if_overdue()
        self.release_ended()
        if time.monotonic() < self._next_scan:
            return
        # Thousands may wait, so they are looked through now and then only.
        self._next_scan = time.monotonic() + _SCAN_SECONDS
        for group in self.waiting:
            group.fail_if_overdue()
        self.waiting = [group for group in self.waiting if not group.done]

    def release_ended(self) -> None:
        """Give the rows of ended sequences back."""
        if self._batch.compact():
            self.full = False

    def schedule(self) -> list[Sequence]:
        """Give rows to waiting sequences; return those that got one, in the batch's last rows.

        Raises:
            OutOfMemoryError: The device has no room for a single unit.
        """
        if not self.waiting or self._gathers():
            return []
        admitted: list[Sequence] = []
        turns = [(group.running, group.arrival, group) for group in self.waiting]
        heapq.heapify(turns)
        passed: list[SequenceGroup] = []
        units = 0
        computed = len(self._batch)
        while turns and len(self._batch) < self.max_rows and not self.full:
            if units == self.units_at_once:
                break
            group = heapq.heappop(turns)[2]
            group.fail_if_overdue()
            if group.done:
                continue
            if not self._fits(group):
                if not len(self._batch):
                    group.fail(self._too_many_beams(group.rows))
                elif group.passed >= self.max_rows:
                    break
                else:
                    passed.append(group)
                continue
            if not self._reserve(group, computed):
                break
            for other in passed:
                other.passed += 1
            admitted += self._admit(group)
            units += 1
            if group.waiting:
                heapq.heappush(turns, (group.running, group.arrival, group))
        self.waiting = [group for group in self.waiting if group.waiting and not group.done]
        self._crowded = len(self._batch) if self.waiting else 0
        self._steps = 0
        return admitted

    def put_back(self, sequences: list[Sequence]) -> None:
        """Let sequences wait again that have no row any more and no token yet."""
        for sequence in reversed(sequences):
            group = sequence.group
            if group.done or (sequence.search is not None and sequence.index > 0):
                continue
            group.waiting.appendleft(sequence.index)
            if group not in self.waiting:
                self.waiting.append(group)
        self.waiting.sort(key=lambda group: group.arrival)

    def shrink(self) -> None:
        """Give memory back that was not needed for a while."""
        rows, positions = self._needed
        self._needed = (
            max(rows, len(self._batch)),
            max([positions, *(s.group.max_length for s in self._batch.running)]),
        )
        self._until_shrink -= 1
        if self._until_shrink > 0:
            return
        rows, positions = self._needed
        self._needed, self._until_shrink = (0, 0), _SHRINK_STEPS
        # Rows come and go; only when twice as many as needed are there, some are given back.
        self._cache.shrink(2 * rows, positions, len(self._batch))

    def _admit(self, group: SequenceGroup) -> list[Sequence]:
        """Give the next rows to a group's next unit."""
        group.passed = 0
        if group.started is None:
            group.started = time.monotonic()
        unit = group.waiting.popleft()
        if group.permit is not None:
            group.permit.release(group.config.num_return_sequences if group.searches else 1)
        sequences = [Sequence(group, unit)]
        if group.searches:
            from gpt2ja_onnx.engine.beams import Beams  # most processes search nothing

            sequences = Beams(group).sequences
        self._batch.enter(sequences)
        return sequences

    def _gathers(self) -> bool:
        """Whether free rows stay free for some steps, until there are more of them."""
        self._steps += 1
        free = self._crowded - len(self._batch)
        enough = min(_PART_TOGETHER * self._crowded, sum(len(g.waiting) for g in self.waiting))
        return 0 < free < enough and self._steps < _STEPS_TOGETHER

    def _fits(self, group: SequenceGroup) -> bool:
        rows = len(self._batch) + group.rows
        if rows > self.max_rows:
            return False
        if self._max_memory is None:
            return True
        return self._cache.bytes_needed(rows, self._positions(group)) <= self._max_memory

    def _positions(self, *groups: SequenceGroup) -> int:
        """Positions a row that the running sequences need, and groups beside them."""
        running = (sequence.group for sequence in self._batch.running)
        return max(group.max_length for group in (*groups, *running))

    def _reserve(self, group: SequenceGroup, computed: int) -> bool:
        """Make room for a unit; False if the device has none beside those that run.

        Args:
            group: Whose unit it is.
            computed: The first rows, that the cache holds something of. Others are not moved: it
                would only fill memory that nothing may ever be written to.

        Raises:
            OutOfMemoryError: It has none, and nothing runs.
        """
        rows = len(self._batch) + group.rows
        if rows > self._cache.rows and self._max_memory is None:
            rows = min(self.max_rows, max(rows, 2 * self._cache.rows))
        try:
            self._cache.reserve(rows, self._positions(group), computed, self._max_memory)
        except OutOfMemoryError:
            if not len(self._batch):
                raise
            if not computed:  # the old memory went first: what has been admitted needs it again
                self._cache.reserve(len(self._batch), self._positions(), 0, self._max_memory)
            self.full = True
            return False
        return True

    def _too_many_beams(self, beams: int) -> GenerationError:
        return GenerationError(
            f"num_beams is {beams}, but only {self.max_rows} sequences run at once; take fewer "
            "beams, a larger batch_size, or a device with more memory"
        )
