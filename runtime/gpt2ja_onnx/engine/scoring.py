"""Log-probabilities of texts of any length, one call of the graph at a time."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpt2ja_onnx.engine.channel import Channel
from gpt2ja_onnx.engine.prefill import pieces
from gpt2ja_onnx.errors import CancelledError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.device.base import Cache, Plan, Session
    from gpt2ja_onnx.engine.queue_limit import Permit
    from gpt2ja_onnx.errors import GenerationError

# Tokens a call: bounds the memory of the logits, 4 bytes × vocabulary each.
_CALL_TOKENS = 256
# Tokens that a job computes behind its prefix until others get a turn and it is computed again.
_TURN_TOKENS = 4096


class _Window(NamedTuple):
    """Tokens `start` to `stop` of a text; those from `fresh` on are scored here."""

    text: int
    start: int
    stop: int
    fresh: int


class Best(NamedTuple):
    """The likeliest tokens at each position of a text; both have shape (length, count)."""

    logprobs: NDArray[np.float64]
    ids: NDArray[np.int32]

    @classmethod
    def empty(cls, length: int, count: int) -> Best:
        """Zeros."""
        return cls(np.zeros((length, count)), np.zeros((length, count), dtype=np.int32))


class ScoringJob:
    """Texts to score, and what has become of them.

    A text longer than the context is read in windows that advance by `stride` tokens, so that a
    scored token has at least context - stride before it.

    Args:
        texts: Token ids.
        context: Tokens that the model sees at most.
        stride: Tokens between the starts of two windows, below the context: windows overlap, so
            that every token has one before it.
        best: How many of the likeliest tokens to keep at every position; at most the number of
            candidates.
        prefix: Tokens that all texts begin with, which are computed once and not scored: none, or
            at least two, so that texts fit into the context and two more follow in each.

    Attributes:
        logprobs: For each text, the log-probability of each token, float64 of shape (length,);
            zero for the first one.
        best: For each text, the likeliest tokens at each position.
        channel: Closed when all texts are scored or the job has failed.
        error: What it failed with.
        cancelled: Whether nobody wants it any more.
        permit: Its place in the queue.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        context: int,
        stride: int,
        best: int = 0,
        *,
        prefix: int = 0,
    ) -> None:
        self.texts = texts
        self.prefix = prefix
        self.logprobs = [np.zeros(len(ids)) for ids in texts]
        self.best = [Best.empty(len(ids), best) for ids in texts]
        self.channel: Channel[None] = Channel()
        self.error: GenerationError | None = None
        self.cancelled = False
        self.permit: Permit | None = None
        self._windows = [
            window
            for index, ids in enumerate(texts)
            for window in _windows(index, len(ids), context, stride)
        ]
        self._windows.sort(key=lambda window: window.start - window.stop)  # the longest first

    @property
    def tokens(self) -> int:
        """Tokens to compute, those of the prefix once."""
        return self.prefix + sum(len(ids) - self.prefix for ids in self.texts)

    @property
    def done(self) -> bool:
        """Whether all texts are scored, or the job has failed."""
        return self.channel.closed

    def next_windows(self) -> list[_Window]:
        """Windows for one turn: those behind a prefix, or of one call; none at the end.

        A call has several, or a long one alone.
        """
        group: list[_Window] = []
        behind = 0
        while self._windows:
            window = self._windows[-1]
            longest = window.stop - window.start
            behind += longest - self.prefix
            full = (
                behind > _TURN_TOKENS if self.prefix else longest * (len(group) + 1) > _CALL_TOKENS
            )
            if group and full:
                break
            group.append(self._windows.pop())
        return group

    def finish(self) -> None:
        """Say that all texts are scored."""
        self._close()

    def fail(self, error: GenerationError) -> None:
        """End the job with an error; the first one counts."""
        if not self.done:
            self.error = error
            self._close()

    def _close(self) -> None:
        if self.permit is not None:
            self.permit.release_all()
        self.channel.close()


class Scoring:
    """Scores the texts of several jobs by turns, in a cache of its own.

    Args:
        session: The graph.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._cache: Cache = session.new_cache()
        self._jobs: deque[ScoringJob] = deque()
        self._calls: Iterator[None] | None = None  # of the windows in work

    @property
    def idle(self) -> bool:
        """Whether there is nothing to score."""
        return not self._jobs

    def add(self, job: ScoringJob) -> None:
        """Queue a job."""
        self._jobs.append(job)

    def step(self) -> None:
        """Make one call of the graph, for the job whose turn it is."""
        for job in [job for job in self._jobs if job.cancelled]:
            job.fail(CancelledError("the request was cancelled"))
        if self._jobs and self._jobs[0].done:
            self._jobs.popleft()
            self._calls = None
            return
        if self._calls is None:
            self._jobs.rotate(-1)
            job = self._jobs[0]
            group = job.next_windows()
            if not group:
                job.finish()
                return
            self._calls = (self._score_behind if job.prefix else self._score)(group, job)
        if next(self._calls, "ended") == "ended":
            self._calls = None

    def fail_all(self, error: GenerationError) -> None:
        """End every job with `error`."""
        for job in self._jobs:
            job.fail(error)
        self._jobs.clear()
        self._calls = None
        self._cache.clear()

    def trim(self) -> None:
        """Give all memory back, while there is nothing to do."""
        if self.idle:
            self._cache.clear()

    def _score(self, group: list[_Window], job: ScoringJob) -> Iterator[None]:
        """Score the fresh tokens of every window; a step for each call of the graph."""
        lengths = np.array([window.stop - window.start for window in group])
        longest = int(lengths.max())
        ids = np.zeros((len(group), longest), dtype=np.int64)
        for row, window in enumerate(group):
            ids[row, : lengths[row]] = job.texts[window.text][window.start : window.stop]
        self._cache.reserve(len(group), longest, 0)
        # Only a batch of one continues a prompt, so a longer call is one row's alone.
        width = longest if len(group) > 1 else _CALL_TOKENS
        for start in range(0, longest, width):
            stop = min(start + width, longest)
            self._take(self._run(ids, start, stop, lengths), ids, start, group, job)
            yield

    def _score_behind(self, group: list[_Window], job: ScoringJob) -> Iterator[None]:
        """Score every window behind the prefix, which stays in the row; a step for each call."""
        self._cache.reserve(1, max(window.stop for window in group), 0)
        prefix = np.array([job.texts[group[0].text][: job.prefix]], dtype=np.int64)
        length = np.array([job.prefix])
        for start, stop in pieces(0, job.prefix, _CALL_TOKENS):
            self._run(prefix, start, stop, length, scored=False)
            yield
        for window in group:
            ids = np.array([job.texts[window.text]], dtype=np.int64)
            length = np.array([window.stop])
            for start, stop in pieces(job.prefix, window.stop, _CALL_TOKENS):
                self._take(self._run(ids, start, stop, length), ids, start, [window], job)
                yield

    def _run(
        self,
        ids: NDArray[np.int64],
        start: int,
        stop: int,
        lengths: NDArray[np.int64],
        *,
        scored: bool = True,
    ) -> Plan:
        positions = stop - start if scored else 1
        plan = self._cache.plan(0, len(ids), stop - start, positions)
        plan.input_ids[:] = ids[:, start:stop]
        plan.position_ids[:] = np.arange(start, stop)
        plan.logit_positions[:] = np.arange(positions)
        plan.lengths[:] = np.minimum(lengths, stop)
        plan.run()
        return plan

    def _take(
        self,
        plan: Plan,
        ids: NDArray[np.int64],
        start: int,
        group: list[_Window],
        job: ScoringJob,
    ) -> None:
        """Keep what a call from `start` on says of the fresh tokens of every window."""
        # The scores at position i predict the token at i + 1.
        stop = min(start + plan.input_ids.shape[1], ids.shape[1] - 1)
        positions = np.arange(start + 1, stop + 1)
        logits = plan.all_logits()[:, : len(positions)]
        chosen = np.take_along_axis(logits, ids[:, positions][..., None], axis=2)[..., 0]
        totals = plan.log_normalisers()[:, : len(positions)]
        logprobs = chosen - totals
        for row, window in enumerate(group):
            length = window.stop - window.start
            fresh = positions[(positions >= window.fresh - window.start) & (positions < length)]
            if not len(fresh):
                continue
            found, places = fresh - positions[0], window.start + fresh
            job.logprobs[window.text][places] = logprobs[row, found]
            best = job.best[window.text]
            if count := best.ids.shape[1]:
                scores, tokens = plan.all_candidates()
                best.logprobs[places] = scores[row, found, :count] - totals[row, found, None]
                best.ids[places] = tokens[row, found, :count]


def _windows(text: int, length: int, context: int, stride: int) -> Iterator[_Window]:
    fresh = 1
    for start in range(0, max(length - 1, 0), stride):
        stop = min(start + context, length)
        yield _Window(text, start, stop, fresh)
        fresh = stop
        if stop == length:
            return
