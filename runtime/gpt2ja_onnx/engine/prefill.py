"""Prompts: computed some rows a call, or behind a prefix that a running sequence has already."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpt2ja_onnx.device.cpu.cache import KVCache
    from gpt2ja_onnx.device.cpu.session import Plan, Session
    from gpt2ja_onnx.engine.request import Request, Sequence

# A prefix is shared when it saves at least this many tokens.
_SHORTEST_PREFIX = 16


class Prefix(NamedTuple):
    """The first `length` positions of a row, that hold what a prompt begins with."""

    row: int
    length: int


def longest_prefix(sequence: Sequence, running: list[Sequence]) -> Prefix | None:
    """Find the running sequence whose cached tokens begin most like `sequence`'s prompt.

    Only sequences of the same request share the whole prompt, with the scores that it gave;
    others leave two tokens at least, see `pieces`.

    Args:
        sequence: One that has no row yet.
        running: Those that have one, by row.
    """
    prompt = sequence.request.prompt_ids
    best: Prefix | None = None
    least = _SHORTEST_PREFIX
    for row, other in enumerate(running):
        if other.request is sequence.request:
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
    """Computes prompts into rows of a cache, and keeps the scores that follow them.

    Args:
        session: The graph.
        cache: The session's.
    """

    def __init__(self, session: Session, cache: KVCache) -> None:
        self._session = session
        self._cache = cache
        self._piece = session.prompt_tokens

    def compute(self, sequences: list[Sequence], first_row: int) -> None:
        """Compute whole prompts.

        Args:
            sequences: Those that have the rows from `first_row` on.
            first_row: Of the cache.
        """
        while sequences:
            if sequences[0].length > self._piece:
                self._compute_alone(sequences[0], first_row, 0)
                count = 1
            else:
                count, longest = self._batch(sequences)
                self._compute_at_once(sequences[:count], first_row, longest)
            sequences, first_row = sequences[count:], first_row + count

    def compute_behind(self, prefix: Prefix, sequence: Sequence, row: int) -> None:
        """Copy a prefix to a row, and compute there what the prompt has behind it."""
        self._cache.copy(prefix.row, row, prefix.length)
        self._compute_alone(sequence, row, prefix.length)

    def _batch(self, sequences: list[Sequence]) -> tuple[int, int]:
        """How many of the first sequences one call computes, and the length of the longest."""
        count = longest = 0
        for sequence in sequences:
            widened = max(longest, sequence.length)
            if widened > self._piece or (
                count and widened * (count + 1) > self._session.call_tokens
            ):
                break
            count, longest = count + 1, widened
        return count, longest

    def _compute_alone(self, sequence: Sequence, row: int, start: int) -> None:
        """Compute a prompt from `start` on, piece by piece."""
        caches = self._cache.slices(row, row + 1)
        plan = None
        for begin, end in pieces(start, sequence.length, self._piece):
            plan = self._session.plan(1, end - begin, 1, caches)
            plan.input_ids[0] = sequence.state.history[begin:end]
            plan.position_ids[0] = np.arange(begin, end)
            plan.lengths[0] = end
            plan.logit_positions[0, 0] = end - begin - 1
            plan.run()
        if plan is not None:  # not where the prefix is the whole prompt
            _keep_first_choice(sequence.request, plan, 0)

    def _compute_at_once(self, sequences: list[Sequence], first_row: int, longest: int) -> None:
        rows = len(sequences)
        width = max(longest, 2)  # see `pieces`
        caches = self._cache.slices(first_row, first_row + rows)
        plan = self._session.plan(rows, width, 1, caches)
        plan.position_ids[:] = np.arange(width)
        for row, sequence in enumerate(sequences):
            plan.input_ids[row, : sequence.length] = sequence.state.history
            plan.lengths[row] = sequence.length
            plan.logit_positions[row, 0] = sequence.length - 1
        plan.run()
        for row, sequence in enumerate(sequences):
            _keep_first_choice(sequence.request, plan, row)


def _keep_first_choice(request: Request, plan: Plan, row: int) -> None:
    """Keep the scores that follow a prompt, for all sequences of its request."""
    request.first_choice = (
        plan.candidate_scores[row].copy(),
        plan.candidate_ids[row].copy(),
        plan.logits[row].copy(),
    )
