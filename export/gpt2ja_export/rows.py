"""A graph fed as the engine feeds it: prompts in pieces and batches, then single tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.device.base import Scores
from gpt2ja_onnx.engine.prefill import pieces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpt2ja_onnx.device.base import Cache, Floats, Ids, Plan, Session


class Rows:
    """Rows of a cache, a text each.

    Args:
        session: The graph.
        rows: How many texts there are.
        capacity: Tokens of the longest one, those to come included.
    """

    def __init__(self, session: Session, rows: int, capacity: int) -> None:
        self._piece = session.prompt_tokens
        self._cache = session.new_cache()
        self._cache.reserve(rows, max(capacity, 2), 0)
        self._lengths = np.zeros(rows, dtype=np.int64)

    def read_prompts(self, prompts: Sequence[Ids]) -> Scores:
        """Compute one prompt a row: the short ones in one call, longer ones piece by piece.

        Args:
            prompts: Token ids; those that are longer than a piece come last.

        Returns:
            The scores that follow them.
        """
        short = [prompt for prompt in prompts if len(prompt) <= self._piece]
        parts: list[Scores] = []
        if short:
            ends = np.array([[len(prompt) - 1] for prompt in short])
            parts.append(_ragged_plan(self._cache, short, ends).scores())
        for row in range(len(short), len(prompts)):
            *_, last = _plans_of_pieces(self._cache, row, prompts[row], self._piece, every=False)
            parts.append(last.scores())
        self._lengths[:] = [len(prompt) for prompt in prompts]
        return Scores.joined(parts)

    def decode(self, tokens: Ids) -> Scores:
        """Compute one token a row, shape (rows,); the scores are good until the next call."""
        plan = self._cache.decode_plan(len(tokens))
        plan.input_ids[:, 0] = tokens
        plan.position_ids[:, 0] = self._lengths
        self._lengths += 1
        plan.lengths[:] = self._lengths
        plan.run()
        return plan.scores()


def logits_at_once(session: Session, texts: Sequence[Ids]) -> list[Floats]:
    """Logits of all positions of a ragged batch in one call, shape (length, vocabulary) each."""
    longest = max(map(len, texts))
    cache = session.new_cache()
    cache.reserve(len(texts), max(longest, 2), 0)
    positions = np.tile(np.arange(longest), (len(texts), 1))
    logits = _ragged_plan(cache, texts, positions).all_logits()
    return [logits[row, : len(text)] for row, text in enumerate(texts)]


def logits_in_pieces(session: Session, text: Ids) -> Floats:
    """Logits of all positions of one text, shape (length, vocabulary), as long ones are read."""
    cache = session.new_cache()
    cache.reserve(1, len(text), 0)
    plans = _plans_of_pieces(cache, 0, text, session.prompt_tokens, every=True)
    return np.concatenate([plan.all_logits()[0] for plan in plans])


def _ragged_plan(cache: Cache, texts: Sequence[Ids], positions: Ids) -> Plan:
    """A call that has computed whole texts in the first rows, with logits for some positions."""
    width = max(2, *map(len, texts))  # as in the engine: a single token has a kernel of its own
    plan = cache.plan(0, len(texts), width, positions.shape[1])
    plan.position_ids[:] = np.arange(width)
    plan.logit_positions[:] = positions
    for row, text in enumerate(texts):
        plan.input_ids[row, : len(text)] = text
        plan.lengths[row] = len(text)
    plan.run()
    return plan


def _plans_of_pieces(
    cache: Cache, row: int, text: Ids, longest: int, *, every: bool
) -> Iterator[Plan]:
    """Calls that have computed pieces of one text, with logits for the last or every position."""
    for start, stop in pieces(0, len(text), longest):
        new = stop - start
        plan = cache.plan(row, 1, new, new if every else 1)
        plan.input_ids[0] = text[start:stop]
        plan.position_ids[0] = np.arange(start, stop)
        plan.logit_positions[0] = np.arange(new) if every else new - 1
        plan.lengths[0] = stop
        plan.run()
        yield plan
