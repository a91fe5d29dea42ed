"""The settings that shape a distribution, in numpy: transformers' warpers in its order.

Scores are sorted downwards here, so that top-k and top-p keep the first ones of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.settings import GenerationConfig

    Floats = NDArray[np.float32]
    Ids = NDArray[np.int64]

_NOT_KEPT = np.float32(-np.inf)


class Warpers:
    """Temperature, top-k, top-p, min-p and typical-p of some rows, as arrays.

    They are built once for many steps: a step should cost little beside the graph's.

    Args:
        configs: Settings, one a row.
    """

    def __init__(self, configs: Sequence[GenerationConfig]) -> None:
        self._rows = np.arange(len(configs))
        self._keep = np.array([c.min_tokens_to_keep for c in configs])
        no_limit = np.iinfo(np.int64).max
        self._top_k = np.maximum([c.top_k or no_limit for c in configs], self._keep)
        temperature = np.array([c.temperature for c in configs], dtype=np.float32)[:, None]
        self._temperature = temperature if (temperature != 1).any() else None
        top_p = np.array([c.top_p for c in configs])[:, None]
        # Where top-p is off, nothing lies below the limit.
        limit = np.where(top_p < 1, 1 - top_p, -1).astype(np.float32)
        self._tail_limit = limit if (top_p < 1).any() else None
        min_p = np.array([c.min_p for c in configs], dtype=np.float32)[:, None]
        self._min_p = min_p if (min_p > 0).any() else None
        self._typical = [
            (row, c.typical_p, c.min_tokens_to_keep)
            for row, c in enumerate(configs)
            if c.typical_p < 1
        ]

    def apply(self, scores: Floats, ids: Ids) -> tuple[Floats, Ids]:
        """Warp a step's scores.

        Args:
            scores: Sorted downwards, shape (rows, n).
            ids: Their token ids, shape (rows, n).

        Returns:
            Scores divided by the temperature, those not kept at minus infinity, and their ids:
            sorted downwards, equal scores by falling id, the order that a stable sort gives
            transformers' top-p (torch leaves the order of its own sort open).
        """
        if self._temperature is not None:
            scores = scores / self._temperature
        scores, ids = self._keep_top_k(scores, ids)
        if self._tail_limit is not None:
            # The probability of a token and all less likely ones, as transformers sums it.
            tail = np.cumsum(softmax(scores)[:, ::-1], axis=1, dtype=np.float64)[:, ::-1]
            self._drop(scores, tail.astype(np.float32) <= self._tail_limit)
        if self._min_p is not None:
            probabilities = softmax(scores)
            self._drop(scores, probabilities < self._min_p * probabilities[:, :1])
        for row, mass, keep in self._typical:
            _keep_typical(scores[row], mass, keep)
        return scores, ids

    def _keep_top_k(self, scores: Floats, ids: Ids) -> tuple[Floats, Ids]:
        """A copy of the scores that reach the k-th one, in as few columns as hold them."""
        columns = scores.shape[1]
        last = np.minimum(self._top_k, columns) - 1
        edge = scores[self._rows, last][:, None]
        widest = int(last.max()) + 1
        while widest < columns and (scores[:, widest] >= edge[:, 0]).any():  # ties stay
            widest += 1
        scores, ids = scores[:, :widest], ids[:, :widest]
        scores = np.where(scores >= edge, scores, _NOT_KEPT)
        tied = scores[:, 1:] == scores[:, :-1]
        if tied.any():
            tied &= scores[:, 1:] != _NOT_KEPT
            ids = ids.copy()
            for row in np.flatnonzero(tied.any(axis=1)).tolist():
                order = np.lexsort((-ids[row], -scores[row]))
                scores[row], ids[row] = scores[row, order], ids[row, order]
        return scores, ids

    def _drop(self, scores: Floats, outside: NDArray[np.bool_]) -> None:
        """Drop scores, in place, but for the first ones of a row that are kept always."""
        outside &= np.arange(scores.shape[1]) >= self._keep[:, None]
        np.copyto(scores, _NOT_KEPT, where=outside)


def _keep_typical(scores: Floats, mass: float, keep: int) -> None:
    """Keep, in place, the tokens whose information is nearest to its expectation.

    Meister et al., 2022, "Locally Typical Sampling".
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        information = -np.log(softmax(scores[None])[0])
        expected = np.nansum(np.exp(-information) * information)
        distance = np.abs(information - expected)
    order = np.argsort(distance, kind="stable")
    cumulative = np.cumsum(softmax(scores[None, order])[0], dtype=np.float64).astype(np.float32)
    last = min(int((cumulative < np.float32(mass)).sum()), len(scores) - 1)
    outside = distance > distance[order[last]]
    outside[order[:keep]] = False
    scores[outside] = _NOT_KEPT


def draw(scores: Floats, ids: Ids, uniform: NDArray[np.float64]) -> Ids:
    """Draw one id a row by inverting the cumulative distribution of softmax(scores).

    Args:
        scores: Shape (rows, n); minus infinity for what is not kept.
        ids: Token ids, shape (rows, n).
        uniform: Numbers in [0, 1), shape (rows,).

    Returns:
        Token ids, shape (rows,).
    """
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    cumulative = np.cumsum(weights, axis=1, dtype=np.float64)
    # The first whose sum reaches the number: never one without weight, whatever is rounded.
    wanted = np.maximum(uniform * cumulative[:, -1], np.finfo(np.float64).tiny)
    position = (cumulative < wanted[:, None]).sum(axis=1)
    drawn: Ids = ids[np.arange(len(ids)), position]
    return drawn


def softmax(scores: Floats) -> Floats:
    """Softmax along the last axis, in float32."""
    exponentials: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    exponentials /= exponentials.sum(axis=-1, keepdims=True)
    return exponentials
