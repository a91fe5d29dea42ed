"""Drawing where no top-k bounds what is kept, mostly without sorting the vocabulary.

The tokens are exactly those that sorting every row and warping it would give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.sampling.warpers import (
    MinP,
    Rows,
    Temperature,
    TopP,
    cuts_alone,
    draw_places,
    order_ties,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_kernels import Kernels
    from gpt2ja_onnx.device.base import Floats, Ids
    from gpt2ja_onnx.sampling.state import SamplerState
    from gpt2ja_onnx.settings.config import GenerationConfig

# Sums of probabilities are compared in float32 where whole rows are sorted. What lies nearer to a
# bound than this is left to that comparison, whose error is a tenth of it.
_MARGIN = 1e-6
# How many of the best tokens are looked at, one after another, where the candidates are not enough.
_WIDTHS = (512, 2048, 4096, 8192)
_UNDECIDED = -1


def fits(config: GenerationConfig) -> bool:
    """Whether a sequence draws from all tokens with nothing but temperature, top-p and min-p."""
    if not config.do_sample or config.num_beams > 1 or config.top_k:
        return False
    return cuts_alone([config])[0]


class Nucleus:
    """Draws for some rows whose settings fit.

    Args:
        states: One a row.
        native: What draws first; rows that it cannot decide, or all where there is none, are drawn
            here.
    """

    def __init__(self, states: Sequence[SamplerState], native: Kernels | None = None) -> None:
        self._states = states
        self._native = native
        rows = Rows([state.config for state in states], np.ones(len(states), dtype=np.int64))
        self._temperature = Temperature.of(rows)
        top_p = rows.column("top_p")
        # The least part of all probability that a token and those behind it must exceed.
        self._limit = np.where(top_p < 1, 1 - top_p, -1)
        self._min_p = rows.column("min_p")

    def draw(self, scores: Floats, ids: Ids, logits: Floats, uniform: NDArray[np.float64]) -> Ids:
        """Draw a token for every row.

        Args:
            scores: Best scores of each row, sorted downwards, equal ones by rising id, shape
                (rows, candidates); NaN in a row whose logits are no longer the graph's.
            ids: Their token ids, shape (rows, candidates).
            logits: All scores, shape (rows, vocabulary).
            uniform: Numbers in [0, 1), shape (rows,).

        Returns:
            Token ids, shape (rows,).
        """
        if self._native is not None:
            divisors = np.ones((len(logits), 1), dtype=np.float32)
            if self._temperature is not None:
                divisors = self._temperature.divisors
            drawn = self._native.draw_nucleus(
                np.ascontiguousarray(logits),
                divisors[:, 0],
                self._limit[:, 0],
                self._min_p[:, 0],
                uniform,
            )
            left = np.flatnonzero(drawn == _UNDECIDED)
            if len(left):
                rest = Nucleus([self._states[row] for row in left.tolist()])
                drawn[left] = rest.draw(scores[left], ids[left], logits[left], uniform[left])
            return drawn
        cold = self._cooled(logits)
        total = np.exp(cold - cold.max(axis=1, keepdims=True)).sum(
            axis=1, keepdims=True, dtype=np.float64
        )
        best, ids = order_ties(self._cooled(scores).copy(), ids)
        every = np.arange(len(logits))
        places = self._places(every, best, total, uniform)
        drawn = np.where(places < 0, _UNDECIDED, ids[every, places])
        size = cold.shape[1]
        # Values alone are sorted: ids are looked up for the one that is drawn.
        for width in _WIDTHS:
            rows = np.flatnonzero(drawn == _UNDECIDED)
            if not len(rows) or width >= size:
                break
            best = np.partition(cold[rows], size - width, axis=1)[:, size - width :]
            best = np.ascontiguousarray(np.sort(best, axis=1)[:, ::-1])
            for row, values, place in zip(
                rows.tolist(), best, self._places(rows, best, total, uniform).tolist(), strict=True
            ):
                if place >= 0:
                    drawn[row] = _token(cold[row], values, place)
        for row in np.flatnonzero(drawn == _UNDECIDED).tolist():
            drawn[row] = self._from_sorted(row, cold[row], uniform[row])
        return drawn

    def _places(
        self,
        rows: NDArray[np.int64],
        best: Floats,
        total: NDArray[np.float64],
        uniform: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Draw columns of the best scores; -1 where they may not be all that is kept.

        Args:
            rows: Which rows these are.
            best: Divided by the temperature and sorted downwards, shape (len(rows), n).
            total: Sum of exp(score - best score) over the vocabulary, of all rows, shape (·, 1).
            uniform: Numbers in [0, 1), of all rows.
        """
        total, limit, min_p = total[rows], self._limit[rows], self._min_p[rows]
        weights = np.exp(best - best[:, :1])
        until = np.cumsum(weights, axis=1, dtype=np.float64)
        tail = 1 - (until - weights) / total
        kept = (tail > limit) & (weights >= min_p)
        kept[:, 0] = True
        near = np.abs(tail - limit) <= _MARGIN
        near |= np.abs(weights - min_p) <= _MARGIN * min_p
        near[:, 0] = False  # is kept either way
        cuts = (limit[:, 0] >= 0) | (min_p[:, 0] > 0)
        # What is kept are the first tokens of a row, so the last one tells whether all are here.
        decided = cuts & ~near.any(axis=1) & ~kept[:, -1]
        places_of = np.arange(len(best))
        count = kept.sum(axis=1)
        # As `draw_places` does; where nothing is cut, the number may lie among these all the same.
        whole = np.where(cuts, until[places_of, count - 1], total[:, 0])
        wanted = np.maximum(uniform[rows] * whole, np.finfo(np.float64).tiny)[:, None]
        places = (until < wanted).sum(axis=1)
        decided |= ~cuts & (wanted[:, 0] < until[:, -1] * (1 - _MARGIN))
        count = np.where(cuts, count, places + 1)
        # Tokens that tie with the last one may stand outside, in any order.
        last = best.shape[1] - 1
        decided &= best[places_of, np.minimum(count, last)] > best[:, -1]
        return np.where(decided, np.minimum(places, last), _UNDECIDED)

    def _from_sorted(self, row: int, cold: Floats, uniform: float) -> int:
        """Draw from all of a row's scores, sorted and warped."""
        best = np.ascontiguousarray(np.sort(cold)[::-1])
        scores, nothing = best[None].copy(), np.empty((0, 0), dtype=np.int64)
        rows = Rows([self._states[row].config], np.ones(1, dtype=np.int64))
        for kind in (TopP, MinP):
            if (cut := kind.of(rows)) is not None:
                scores, _ = cut(scores, nothing)
        return _token(cold, best, int(draw_places(scores, np.array([uniform]))[0]))

    def _cooled(self, scores: Floats) -> Floats:
        if self._temperature is None:
            return scores
        cooled, _ = self._temperature(scores, np.empty((0, 0), dtype=np.int64))
        return cooled


def _token(cold: Floats, best: Floats, place: int) -> int:
    """The id of the score at a place of a sorted row; equal scores are taken by falling id."""
    value = best[place]
    tied = np.flatnonzero(cold == value)
    if len(tied) > 1:
        place -= int(np.searchsorted(-best, -value))
        return int(tied[len(tied) - 1 - place])
    return int(tied[0])
