"""Whether the best scores that the graph gives are what a row is drawn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.sampling.nucleus import fits
from gpt2ja_onnx.sampling.processors import watched_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt2ja_onnx.device.base import Floats, Ids
    from gpt2ja_onnx.sampling.state import SamplerState

# Tokens of a row that are looked for among the candidates; more are taken to be there.
_MOST_WATCHED = 8


class Candidates:
    """Of which rows, step after step, the candidates are drawn from as they are.

    Args:
        states: One a row.
        count: Candidates of a row.
        vocab_size: Scores of a row.

    Attributes:
        count: Candidates of a row.
        complete: Whether the candidates are the whole vocabulary.
        unbounded: Rows that keep as many tokens as it takes, of all.
        edge: The place of the last candidate of each row that can be kept, shape (rows,): that of
            the last one where there is no bound.
    """

    def __init__(self, states: Sequence[SamplerState], count: int, vocab_size: int) -> None:
        self._states = states
        self.count = count
        self.complete = count == vocab_size
        self.unbounded: list[int] = []
        if not self.complete:
            self.unbounded = [row for row, state in enumerate(states) if fits(state.config)]
        self._processed: list[int] = []  # rows with processors that any token may fall to
        watched: list[tuple[int, int]] = []  # of others rows and tokens whose scores may fall
        for row, state in enumerate(states):
            tokens = watched_tokens(state.processors)
            if tokens is None or len(tokens) > _MOST_WATCHED:
                self._processed.append(row)
            else:
                watched += [(row, token) for token in tokens]
        self._watching = np.array(watched, dtype=np.int64).reshape(-1, 2)
        self._constrained = [row for row, s in enumerate(states) if s.constraint is not None]
        self._rows = np.arange(len(states))
        kept = np.array([state.kept_at_most for state in states], dtype=np.int64)
        self.edge = np.where((kept > 0) & (kept < count), kept, count) - 1

    def not_as_they_are(self, scores: Floats, ids: Ids) -> list[int]:
        """Rows whose candidates some processor changes, or may not be enough.

        Args:
            scores: The candidates, shape (rows, count).
            ids: Their token ids, shape (rows, count).
        """
        rows = {row for row in self._processed if self._states[row].active}
        rows.update(self._constrained)
        if len(self._watching):
            watchers, tokens = self._watching.T
            seen = (ids[watchers] == tokens[:, None]).any(axis=1)
            if seen.any():
                rows.update(row for row in watchers[seen].tolist() if self._states[row].active)
        if not self.complete:
            # What ties with the last candidate may go on outside.
            enough = scores[self._rows, self.edge] > scores[:, -1]
            if not enough.all():
                rows.update(np.flatnonzero(~enough).tolist())
        return sorted(rows)
