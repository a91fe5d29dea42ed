"""Continuous batching: sequences enter and leave the running batch between two steps.

The engine is single-threaded: `gpt2ja_onnx.engine.worker` runs it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gpt2ja_onnx.constraints.masks import Masks
from gpt2ja_onnx.device.base import RowStore
from gpt2ja_onnx.engine.advance import Advance
from gpt2ja_onnx.engine.batch import Batch
from gpt2ja_onnx.engine.decode import decode
from gpt2ja_onnx.engine.prefill import Prefill
from gpt2ja_onnx.engine.prefix_cache import PrefixCache
from gpt2ja_onnx.engine.retreat import Retreat
from gpt2ja_onnx.engine.scheduler import Scheduler
from gpt2ja_onnx.engine.scoring import Scoring, ScoringJob
from gpt2ja_onnx.engine.statistics import Counters
from gpt2ja_onnx.errors import OutOfMemoryError
from gpt2ja_onnx.results import EngineStatistics

if TYPE_CHECKING:
    from gpt2ja_onnx.device.base import Session
    from gpt2ja_onnx.engine.group import SequenceGroup
    from gpt2ja_onnx.errors import GenerationError


class Engine:
    """Runs groups of sequences through one session.

    Args:
        session: The graph.
        max_rows: Sequences that run at once, at most.
        max_memory: Bytes that the cache may take; None leaves it to `max_rows`.
        prefix_cache_bytes: Bytes that what is kept of earlier prompts may take.

    Attributes:
        batch: The sequences that have a row.
        scheduler: The groups that wait for one.
        scoring: The texts to score.
        counters: What it has done so far.
    """

    def __init__(
        self,
        session: Session,
        *,
        max_rows: int,
        max_memory: int | None = None,
        prefix_cache_bytes: int = 0,
    ) -> None:
        self.batch = Batch(session.new_cache())
        self.scheduler = Scheduler(self.batch, max_rows=max_rows, max_memory=max_memory)
        self.scoring = Scoring(session)
        self._generated = self._scored = 0.0  # seconds, while both have something to do
        self.counters = Counters()
        self._context = session.shape.context
        self._prefixes: PrefixCache | None = None
        if prefix_cache_bytes and isinstance(self.batch.cache, RowStore):
            self._prefixes = PrefixCache(self.batch.cache, prefix_cache_bytes)
        self._prefill = Prefill(session, self.batch, self.counters, self._prefixes)
        self._advance = Advance(self.batch)
        self._retreat = Retreat(self.batch, self.scheduler)
        self._masks = Masks(spare=session.kernels == "cuda")

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._generates and self.scoring.idle

    @property
    def _generates(self) -> bool:
        return bool(self.scheduler.waiting) or len(self.batch) > 0

    def add(self, work: SequenceGroup | ScoringJob) -> None:
        """Queue work; a group that cannot ever fit fails at once."""
        if isinstance(work, ScoringJob):
            self.scoring.add(work)
        else:
            self.scheduler.add(work)

    def step(self) -> None:
        """Generate one token for every row, or score some tokens, whichever had less time."""
        if self._generates == self.scoring.idle:
            self._generated = self._scored = 0.0  # one of them is alone, or there is nothing
        started = time.monotonic()
        if self._generates and (self.scoring.idle or self._generated <= self._scored):
            self.generate()
            self._generated += time.monotonic() - started
        elif not self.scoring.idle:
            self.scoring.step()
            self._scored += time.monotonic() - started

    def generate(self) -> None:
        """Admit what fits, and generate one token for every row."""
        self.scheduler.drop_overdue()
        counters = self.counters
        computed = counters.prompt_tokens - counters.shared_tokens
        tokens = 0
        try:
            admitted = self.scheduler.schedule()
            first_scores = self._prefill(admitted) if admitted else None
        except OutOfMemoryError as error:
            self._retreat.from_prompts(error)
            first_scores = None
        if first_scores is not None:
            tokens = counters.prompt_tokens - counters.shared_tokens - computed + len(admitted)
            self._advance(admitted, first_scores)
            self._prefill.finish()
            self.scheduler.release_ended()
        try:
            if len(self.batch):
                tokens += len(self.batch)
                with self._masks.found_beside(self.batch.constraints):
                    scores = decode(self.batch)
                self._advance(self.batch.running, scores)
        except OutOfMemoryError as error:
            self._retreat.from_decoding(error)
        counters.count_step(tokens)
        self.scheduler.release_ended()
        self.scheduler.shrink()

    def statistics(self, waiting: tuple[int, int]) -> EngineStatistics:
        """What it does now and has done so far; may be called from any thread.

        Args:
            waiting: Sequences and prompt tokens that wait.
        """
        counters = self.counters
        running = list(self.batch.running)
        positions = self.scheduler.max_rows * self._context
        return EngineStatistics(
            running=len(running),
            waiting=waiting[0],
            waiting_tokens=waiting[1],
            cache_bytes=self.batch.cache.nbytes,
            cache_usage=sum(sequence.length for sequence in running) / positions,
            prompt_tokens=counters.prompt_tokens,
            shared_tokens=counters.shared_tokens,
            steps=counters.steps,
            step_tokens=counters.step_tokens,
            steps_by_size=tuple(counters.steps_by_size),
        )

    def fail_all(self, error: GenerationError) -> None:
        """End all work with `error` and start anew with an empty cache."""
        groups = [sequence.group for sequence in self.batch.drop_from(0)]
        for group in [*groups, *self.scheduler.waiting]:
            group.fail(error)
        self.scheduler.waiting.clear()
        self.scheduler.full = False
        self.batch.cache.clear()
        if self._prefixes is not None:
            self._prefixes.clear()
        self.scoring.fail_all(error)

    def trim(self) -> None:
        """Give all memory back, while there is nothing to do."""
        if self.idle:
            self.batch.cache.clear()
            self.scoring.trim()
            self._advance.forget()
            self._masks.close()

    def close(self) -> None:
        """End the thread that it has of its own; nothing may be running."""
        self._masks.close()
