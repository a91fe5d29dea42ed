"""Prompts: computed some rows a call, or behind a prefix that a running sequence has already."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from gpt2ja_onnx.bundle import ModelShape
    from gpt2ja_onnx.cache import KVCache
    from gpt2ja_onnx.request import Request, Sequence
    from gpt2ja_onnx.session import Plan, Session

# Tokens, padding included, that one call computes at most.
_TOKENS = 2048
# A prefix is shared when it saves at least this many tokens.
_SHORTEST_PREFIX = 16


class Prefix(NamedTuple):
    """The first `length` positions of a row, that hold what a prompt begins with."""

    row: int
    length: int


def attention_block(shape: ModelShape) -> int:
    """New tokens of a row that the attention computes at a time.

    onnxruntime's attention on the CPU takes as many as the heads of keys and values are wide
    together. What is left over for the last block comes to the same bits as in a longer row, but
    not in fp32 if it is a single token: another kernel computes that.
    """
    return 2 * shape.head_size


def longest_prefix(sequence: Sequence, running: list[Sequence], block: int) -> Prefix | None:
    """Find the running sequence whose cached tokens begin most like `sequence`'s prompt.

    Only sequences of the same request share the whole prompt, with the scores that it gave.

    Args:
        sequence: One that has no row yet.
        running: Those that have one, by row.
        block: From `attention_block`; no single token may be left over behind the prefix.
    """
    prompt = sequence.request.prompt_ids
    best: Prefix | None = None
    least = _SHORTEST_PREFIX
    for row, other in enumerate(running):
        if other.request is sequence.request:
            return Prefix(row, len(prompt))
        end = min(len(prompt) - 1, other.state.prompt_length)
        if end < least:
            continue
        differs = np.flatnonzero(prompt[:end] != other.state.history[:end])
        shared = int(differs[0]) if len(differs) else end
        if (len(prompt) - shared) % block == 1:
            shared -= 1
        if shared >= least:
            best, least = Prefix(row, shared), shared + 1
    return best


class Prefill:
    """Computes prompts into rows of a cache, and keeps the scores that follow them.

    Args:
        session: The graph.
        cache: The session's.
    """

    def __init__(self, session: Session, cache: KVCache) -> None:
        self._session = session
        self._cache = cache

    def compute(self, sequences: list[Sequence], first_row: int) -> None:
        """Compute whole prompts.

        Args:
            sequences: Those that have the rows from `first_row` on.
            first_row: Of the cache.
        """
        while sequences:
            count, longest = 0, 0
            while count < len(sequences):
                widened = max(longest, sequences[count].length)
                if count and widened * (count + 1) > _TOKENS:
                    break
                count, longest = count + 1, widened
            self._compute_at_once(sequences[:count], first_row, longest)
            sequences, first_row = sequences[count:], first_row + count

    def compute_behind(self, prefix: Prefix, sequence: Sequence, row: int) -> None:
        """Copy a prefix to a row, and compute there what the prompt has behind it."""
        self._cache.copy(prefix.row, row, prefix.length)
        rest = sequence.state.history[prefix.length :]
        if not len(rest):
            return
        plan = self._session.plan(1, len(rest), 1, self._cache.slices(row, row + 1))
        plan.input_ids[0] = rest
        plan.position_ids[0] = np.arange(prefix.length, sequence.length)
        plan.lengths[0] = sequence.length
        plan.logit_positions[0, 0] = len(rest) - 1
        plan.run()
        _keep_first_choice(sequence.request, plan, 0)

    def _compute_at_once(self, sequences: list[Sequence], first_row: int, longest: int) -> None:
        rows = len(sequences)
        width = longest + (longest % attention_block(self._session.shape) == 1)
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
