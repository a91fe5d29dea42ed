"""What to do when the device has no memory: less at once, and only what fits nowhere fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_onnx.engine.advance import no_memory

if TYPE_CHECKING:
    from gpt2ja_onnx.engine.batch import Batch
    from gpt2ja_onnx.engine.group import SequenceGroup
    from gpt2ja_onnx.engine.scheduler import Scheduler
    from gpt2ja_onnx.errors import OutOfMemoryError


class Retreat:
    """Steps back from what did not fit.

    Args:
        batch: The running sequences.
        scheduler: Of those that wait.
    """

    def __init__(self, batch: Batch, scheduler: Scheduler) -> None:
        self._batch = batch
        self._scheduler = scheduler
        self._last_try: SequenceGroup | None = None  # has the device for itself

    def from_prompts(self, error: OutOfMemoryError) -> None:
        """Let wait again what is not begun, and compute half as many prompts at once.

        Beside sequences that run, nothing more is admitted until one ends. What has the device
        for itself and still does not fit fails.
        """
        batch, scheduler = self._batch, self._scheduler
        begun = sum(sequence.begun for sequence in batch.running)
        fresh = batch.drop_from(begun)
        scheduler.put_back(fresh)
        units = sum(sequence.search is None or sequence.index == 0 for sequence in fresh)
        scheduler.units_at_once = max(1, units // 2)
        scheduler.full = begun > 0
        if begun:
            return
        batch.cache.clear()
        if units > 1:
            return
        waiting = [group for group in scheduler.waiting if not group.done]
        first = min(waiting, key=lambda group: (group.running, group.arrival), default=None)
        if first is not None and self._last_try is first:
            self._last_try = None
            first.fail(no_memory(error))
        else:
            self._last_try = first

    def from_decoding(self, error: OutOfMemoryError) -> None:
        """End the group that came last: there is no memory for a step of all rows."""
        batch, scheduler = self._batch, self._scheduler
        if not len(batch):
            return
        batch.running[-1].group.fail(no_memory(error))
        scheduler.max_rows = max(1, len(batch) - 1)
        scheduler.release_ended()
