"""Drawing where no top-k bounds what is kept, mostly without sorting the vocabulary.

The tokens are exactly those that sorting every row and warping it would give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.sampling.warpers import MinP, Rows, Temperature, TopP, draw_places, order_ties

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.device.base import Floats, Ids
    from gpt2ja_onnx.sampling.state import SamplerState
    from gpt2ja_onnx.sampling.warpers import Warper
    from gpt2ja_onnx.settings.config import GenerationConfig

# Sums of probabilities are compared in float32 where rows are sorted. What lies nearer to a bound
# than this is left to that comparison; its error is a hundred times smaller.
_MARGIN = 1e-5
_UNDECIDED = -1


def fits(config: GenerationConfig) -> bool:
    """Whether a sequence draws from all tokens with nothing but temperature, top-p and min-p."""
    return (
        config.do_sample
        and config.num_beams == 1
        and config.top_k == 0
        and config.typical_p == 1
        and config.epsilon_cutoff == 0
        and config.eta_cutoff == 0
    )


class Nucleus:
    """Draws for some rows whose settings fit.

    Args:
        states: One a row.
    """

    def __init__(self, states: Sequence[SamplerState]) -> None:
        rows = Rows([state.config for state in states], np.ones(len(states), dtype=np.int64))
        self._temperature = Temperature.of(rows)
        cuts: list[Warper | None] = [TopP.of(rows), MinP.of(rows)]
        self._cuts = [warper for warper in cuts if warper is not None]
        top_p = rows.column("top_p")
        # The least part of all probability that a token and those behind it must exceed.
        self._limit = np.where(top_p < 1, 1 - top_p, -1)
        self._min_p = rows.column("min_p")

    def from_candidates(
        self, scores: Floats, ids: Ids, logits: Floats, uniform: NDArray[np.float64]
    ) -> Ids:
        """Draw from the best tokens, where they are seen to be enough.

        Args:
            scores: Best scores of each row, sorted downwards, equal ones by rising id, shape
                (rows, candidates).
            ids: Their token ids, shape (rows, candidates).
            logits: All scores, shape (rows, vocabulary).
            uniform: Numbers in [0, 1), shape (rows,).

        Returns:
            Token ids, shape (rows,); -1 where the candidates may not be enough.
        """
        cold, all_cold = self._cooled(scores), self._cooled(logits)
        cold, ids = order_ties(cold.copy(), ids)
        best = cold[:, :1]
        weights = np.exp(cold - best).astype(np.float64)
        total = np.exp(all_cold - best).sum(axis=1, keepdims=True, dtype=np.float64)
        before = np.cumsum(weights, axis=1) - weights
        tail = 1 - before / total
        part = weights  # of the likeliest token's probability
        kept = (tail > self._limit) & (part >= self._min_p)
        kept[:, 0] = True
        near = np.abs(tail - self._limit) <= _MARGIN
        near |= np.abs(part - self._min_p) <= _MARGIN * self._min_p
        near[:, 0] = False  # is kept either way
        cut = (self._limit >= 0) | (self._min_p > 0)
        # What is kept is the first tokens of a row, so the last one tells whether all are here.
        decided = cut[:, 0] & ~near.any(axis=1) & ~kept[:, -1]
        count = kept.sum(axis=1)
        chosen = np.where(kept, cold, np.float32(-np.inf))
        places = draw_places(chosen, uniform)
        # Where nothing is cut, the number itself may lie among the candidates.
        wanted = np.maximum(uniform[:, None] * total, np.finfo(np.float64).tiny)
        inside = ~cut[:, 0] & (wanted[:, 0] < (before + weights)[:, -1] * (1 - _MARGIN))
        places = np.where(inside, ((before + weights) < wanted).sum(axis=1), places)
        count = np.where(inside, places + 1, count)
        # Tokens that tie with the last candidate may stand outside, in any order.
        rows = np.arange(len(cold))
        clear = cold[rows, np.minimum(count, cold.shape[1] - 1)] > cold[:, -1]
        decided = (decided | inside) & clear
        drawn: Ids = np.where(decided, ids[rows, np.minimum(places, cold.shape[1] - 1)], _UNDECIDED)
        return drawn

    def from_all(self, logits: Floats, uniform: NDArray[np.float64]) -> Ids:
        """Draw from the sorted scores.

        Args:
            logits: All scores, shape (rows, vocabulary).
            uniform: Numbers in [0, 1), shape (rows,).

        Returns:
            Token ids, shape (rows,).
        """
        cold = self._cooled(logits)
        # Values alone are sorted: ids are looked up for the one that is drawn.
        ordered = np.ascontiguousarray(np.sort(cold, axis=1)[:, ::-1])
        scores, nothing = ordered.copy(), np.empty((0, 0), dtype=np.int64)
        for cut in self._cuts:
            scores, _ = cut(scores, nothing)
        columns = int((scores > -np.inf).sum(axis=1).max(initial=1))
        places = draw_places(scores[:, :columns], uniform)
        drawn = np.empty(len(logits), dtype=np.int64)
        for row, place in enumerate(places.tolist()):
            value = ordered[row, place]
            first = int(np.searchsorted(-ordered[row], -value))
            tied = np.flatnonzero(cold[row] == value)  # by rising id; falling ones are wanted
            drawn[row] = tied[len(tied) - 1 - (place - first)]
        return drawn

    def _cooled(self, scores: Floats) -> Floats:
        if self._temperature is None:
            return scores
        cooled, _ = self._temperature(scores, np.empty((0, 0), dtype=np.int64))
        return cooled
