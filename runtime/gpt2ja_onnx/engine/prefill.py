"""Prompts: computed some rows a call, or behind a prefix that a running sequence has already."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpt2ja_onnx.device.base import Scores
from gpt2ja_onnx.engine.advance import no_memory
from gpt2ja_onnx.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpt2ja_onnx.device.base import Session
    from gpt2ja_onnx.engine.batch import Batch
    from gpt2ja_onnx.engine.group import SequenceGroup
    from gpt2ja_onnx.engine.prefix_cache import PrefixCache
    from gpt2ja_onnx.engine.sequence import Sequence
    from gpt2ja_onnx.engine.statistics import Counters

# A prefix is shared when it saves at least this many tokens.
_SHORTEST_PREFIX = 16


class Prefix(NamedTuple):
    """The first `length` positions of a row, which hold what a prompt begins with."""

    row: int
    length: int


def longest_prefix(sequence: Sequence, running: list[Sequence]) -> Prefix | None:
    """Find the running sequence whose cached tokens begin most like `sequence`'s prompt.

    Only sequences of the same group share the whole prompt, with the scores that it gave; others
    leave two tokens at least, see `pieces`.

    Args:
        sequence: One whose prompt is to be computed.
        running: Those that have theirs, by row.
    """
    prompt = sequence.group.prompt_ids
    best: Prefix | None = None
    least = _SHORTEST_PREFIX
    for row, other in enumerate(running):
        if other.group is sequence.group:
            return Prefix(row, len(prompt))
        end = min(len(prompt) - 2, other.state.prompt_length)
        if end < least:
            continue
        differs = np.flatnonzero(prompt[:end] != other.state.history[:end])
        shared = int(differs[0]) if len(differs) else end
        if shared >= least:
            best, least = Prefix(row, shared), shared + 1
    return best


def pieces(start: int, stop: int, longest: int) -> Iterator[tuple[int, int]]:
    """Cut the tokens from `start` to `stop` of a prompt into pieces for one call each.

    The kernels compute several new tokens to the same bits in any piece, but in fp32 not a single
    one, which another kernel computes: so no piece is one token.

    Args:
        start: First token to compute; at least one must follow it.
        stop: Behind the last one.
        longest: Tokens a piece, at most; above 2.
    """
    while start < stop:
        end = min(start + longest, stop)
        if stop - end == 1:
            end -= 1
        yield start, end
        start = end


class Prefill:
    """Computes the prompts of the batch's last rows, and gives the scores that follow them.

    What first tokens need not wait for is left to `finish`: copies of a prompt that several
    sequences share, and what is kept for later prompts.

    Args:
        session: The graph.
        batch: The rows.
        counters: Where prompts are counted.
        prefixes: What is kept of earlier prompts; None keeps nothing.
    """

    def __init__(
        self,
        session: Session,
        batch: Batch,
        counters: Counters,
        prefixes: PrefixCache | None = None,
    ) -> None:
        self._counters = counters
        self._prefixes = prefixes
        self._session = session
        self._batch = batch
        self._cache = batch.cache
        self._piece = session.prompt_tokens
        # What followed the prompts of groups that have more sequences to come.
        self._first_scores: dict[SequenceGroup, Scores] = {}
        self._copies: list[tuple[Prefix, int]] = []  # and the rows they go to
        self._computed: list[int] = []  # rows whose prompts may be kept

    def __call__(self, sequences: list[Sequence]) -> Scores:
        """Compute prompts.

        Args:
            sequences: Those of the batch's last rows.

        Returns:
            The scores of their first tokens.
        """
        running = self._batch.running
        self._copies, self._computed = [], []
        wanted = {sequence.group for sequence in sequences}
        self._first_scores = {
            group: scores
            for group, scores in self._first_scores.items()
            if group in wanted or (group.waiting and not group.done)
        }
        fresh: list[int] = []  # rows whose prompts share nothing, consecutive
        for row in range(len(running) - len(sequences), len(running)):
            prefix = longest_prefix(running[row], running[:row])
            shared = prefix.length if prefix else 0
            kept = self._kept(running[row]) if shared < running[row].length else 0
            self._counters.count_prompt(running[row].length, max(shared, kept))
            group = running[row].group
            if group.first_token is None and shared < running[row].length:
                group.shared_tokens = max(shared, kept)
            if not shared and not kept:
                fresh.append(row)
                continue
            self._compute(fresh)  # the prefix may be among them
            fresh = []
            if prefix is not None and shared >= kept:
                if shared == running[row].length and running[row].search is None:
                    self._copies.append((prefix, row))
                    continue
                self._cache.copy(prefix.row, row, shared)
                self._compute_alone(row, shared)
            else:
                self._restore(row, kept)
                self._compute_alone(row, kept)
        self._compute(fresh)
        return Scores.joined([self._first_scores[sequence.group] for sequence in sequences])

    def finish(self) -> None:
        """Complete the rows of the last call, before anything else reads or moves them."""
        for prefix, row in self._copies:
            sequence = self._batch.running[row]
            if sequence.ended:
                continue
            try:
                self._cache.copy(prefix.row, row, prefix.length)
            except OutOfMemoryError as error:
                sequence.group.fail(no_memory(error))
        if self._prefixes is not None:
            for row in self._computed:
                state = self._batch.running[row].state
                self._prefixes.keep(state.history[: state.prompt_length], row)
        self._copies, self._computed = [], []

    def _kept(self, sequence: Sequence) -> int:
        """Tokens of a prompt that were kept; two at least are left, see `pieces`."""
        if self._prefixes is None:
            return 0
        return self._prefixes.find(sequence.state.history[: sequence.length - 2])

    def _restore(self, row: int, length: int) -> None:
        assert self._prefixes is not None
        self._prefixes.restore(self._batch.running[row].state.history[:length], row)

    def _compute(self, rows: list[int]) -> None:
        """Compute the whole prompts of consecutive rows."""
        while rows:
            if self._batch.running[rows[0]].length > self._piece:
                self._compute_alone(rows[0], 0)
                count = 1
            else:
                count, longest = self._call_size(rows)
                self._compute_at_once(rows[0], count, longest)
            rows = rows[count:]

    def _call_size(self, rows: list[int]) -> tuple[int, int]:
        """How many of the first rows one call computes, and the length of the longest prompt."""
        count = longest = 0
        for row in rows:
            widened = max(longest, self._batch.running[row].length)
            if widened > self._piece or (
                count and widened * (count + 1) > self._session.call_tokens
            ):
                break
            count, longest = count + 1, widened
        return count, longest

    def _compute_alone(self, row: int, start: int) -> None:
        """Compute a prompt from `start` on, piece by piece."""
        sequence = self._batch.running[row]
        for begin, end in pieces(start, sequence.length, self._piece):
            plan = self._cache.plan(row, 1, end - begin, 1)
            plan.input_ids[0] = sequence.state.history[begin:end]
            plan.position_ids[0] = np.arange(begin, end)
            plan.lengths[0] = end
            plan.logit_positions[0, 0] = end - begin - 1
            plan.run()
            if end == sequence.length:
                self._first_scores[sequence.group] = plan.scores()
                self._computed.append(row)

    def _compute_at_once(self, first: int, count: int, longest: int) -> None:
        sequences = self._batch.running[first : first + count]
        width = max(longest, 2)  # see `pieces`
        plan = self._cache.plan(first, count, width, 1)
        plan.position_ids[:] = np.arange(width)
        for row, sequence in enumerate(sequences):
            plan.input_ids[row, : sequence.length] = sequence.state.history
            plan.lengths[row] = sequence.length
            plan.logit_positions[row, 0] = sequence.length - 1
        plan.run()
        scores = plan.scores()
        for row, sequence in enumerate(sequences):
            self._first_scores[sequence.group] = scores.take([row])
            self._computed.append(first + row)
