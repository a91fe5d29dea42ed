"""Settings that shape a distribution, over the rows of a batch: transformers' warpers in its order.

Scores are sorted downwards here, so that top-k and top-p keep the first ones of a row. Greedy
choices do without them. To add one, write a class with the
methods of `Warper` and put it into `WARPERS`, where it is to act.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.device.base import Floats, Ids
    from gpt2ja_onnx.sampling.state import SamplerState
    from gpt2ja_onnx.settings.config import GenerationConfig

_NOT_KEPT = np.float32(-np.inf)
# Below, quotients of scores leave float32; a distribution so sharp is one token all the same.
COLDEST = 1e-30


class Rows(NamedTuple):
    """The settings of a batch's rows.

    Attributes:
        configs: One a row.
        keep: Tokens that no warper takes away, shape (rows,).
    """

    configs: list[GenerationConfig]
    keep: NDArray[np.int64]

    def column(self, name: str) -> NDArray[np.float64]:
        """A setting of every row, shape (rows, 1)."""
        return np.array([[getattr(config, name)] for config in self.configs], dtype=np.float64)


class Warper(Protocol):
    """Shapes the distributions of some rows; made once for many steps."""

    @classmethod
    def of(cls, rows: Rows) -> Self | None:
        """The warper of a batch; None if no row's settings ask for it."""

    def __call__(self, scores: Floats, ids: Ids) -> tuple[Floats, Ids]:
        """Warp a step's scores; they may be changed in place.

        Args:
            scores: Shape (rows, n), sorted downwards but for those not kept, which are minus
                infinity.
            ids: Their token ids, shape (rows, n).

        Returns:
            Scores and ids, perhaps fewer columns.
        """


class Temperature:
    """Divides scores.

    Attributes:
        divisors: Of each row, shape (rows, 1).
    """

    def __init__(self, temperature: NDArray[np.float64]) -> None:
        self.divisors = np.maximum(temperature, COLDEST).astype(np.float32)

    @classmethod
    def of(cls, rows: Rows) -> Self | None:
        """See `Warper`."""
        temperature = rows.column("temperature")
        return cls(temperature) if (temperature != 1).any() else None

    def __call__(self, scores: Floats, ids: Ids) -> tuple[Floats, Ids]:
        """See `Warper`."""
        return scores / self.divisors, ids


class TopK:
    """Keeps the scores that reach the k-th one, in as few columns as hold them.

    Equal scores come out by falling id: the order that a stable sort gives transformers' top-p
    (torch leaves the order of its own sort open).
    """

    def __init__(self, top_k: NDArray[np.int64]) -> None:
        self._top_k = top_k
        self._rows = np.arange(len(top_k))

    @classmethod
    def of(cls, rows: Rows) -> Self:
        """See `Warper`."""
        no_limit = np.iinfo(np.int64).max
        asked = np.array([config.top_k or no_limit for config in rows.configs])
        return cls(np.maximum(asked, rows.keep))

    def __call__(self, scores: Floats, ids: Ids) -> tuple[Floats, Ids]:
        """See `Warper`."""
        columns = scores.shape[1]
        last = np.minimum(self._top_k, columns) - 1
        edge = scores[self._rows, last][:, None]
        widest = int(last.max()) + 1
        while widest < columns and (scores[:, widest] >= edge[:, 0]).any():  # ties stay
            widest += 1
        scores, ids = scores[:, :widest], ids[:, :widest]
        return order_ties(np.where(scores >= edge, scores, _NOT_KEPT), ids)


class TopP:
    """Keeps the likeliest tokens up to a probability: Holtzman et al., 2020."""

    def __init__(self, top_p: NDArray[np.float64], keep: NDArray[np.int64]) -> None:
        # Where top-p is off, nothing lies below the limit.
        self._limit = np.where(top_p < 1, 1 - top_p, -1).astype(np.float32)
        self._keep = keep

    @classmethod
    def of(cls, rows: Rows) -> Self | None:
        """See `Warper`."""
        top_p = rows.column("top_p")
        return cls(top_p, rows.keep) if (top_p < 1).any() else None

    def __call__(self, scores: Floats, ids: Ids) -> tuple[Floats, Ids]:
        """See `Warper`."""
        # The probability of a token and all less likely ones, as transformers sums it.
        tail = np.cumsum(softmax(scores)[:, ::-1], axis=1, dtype=np.float64)[:, ::-1]
        outside = tail.astype(np.float32) <= self._limit
        outside &= np.arange(scores.shape[1]) >= self._keep[:, None]
        np.copyto(scores, _NOT_KEPT, where=outside)
        return scores, ids


class MinP:
    """Keeps tokens of at least a part of the likeliest one's probability."""

    def __init__(self, min_p: NDArray[np.float64], keep: NDArray[np.int64]) -> None:
        self._min_p = min_p.astype(np.float32)
        self._keep = keep

    @classmethod
    def of(cls, rows: Rows) -> Self | None:
        """See `Warper`."""
        min_p = rows.column("min_p")
        return cls(min_p, rows.keep) if (min_p > 0).any() else None

    def __call__(self, scores: Floats, ids: Ids) -> tuple[Floats, Ids]:
        """See `Warper`."""
        probabilities = softmax(scores)
        outside = probabilities < self._min_p * probabilities[:, :1]
        outside &= np.arange(scores.shape[1]) >= self._keep[:, None]
        np.copyto(scores, _NOT_KEPT, where=outside)
        return scores, ids


class TypicalP:
    """Keeps the tokens whose information is nearest to its expectation.

    Meister et al., 2022, "Locally Typical Sampling". It may drop the likeliest token.
    """

    def __init__(self, rows: list[tuple[int, float, int]]) -> None:
        self._rows = rows

    @classmethod
    def of(cls, rows: Rows) -> Self | None:
        """See `Warper`."""
        asking = [
            (row, config.typical_p, int(keep))
            for row, (config, keep) in enumerate(zip(rows.configs, rows.keep, strict=True))
            if config.typical_p < 1
        ]
        return cls(asking) if asking else None

    def __call__(self, scores: Floats, ids: Ids) -> tuple[Floats, Ids]:
        """See `Warper`."""
        for row, mass, keep in self._rows:
            _keep_typical(scores[row], mass, keep)
        return scores, ids


def _keep_typical(scores: Floats, mass: float, keep: int) -> None:
    information = -np.log(softmax(scores[None])[0])
    expected = np.float32(_total(np.nan_to_num(np.exp(-information) * information)).item())
    distance = np.abs(information - expected)
    order = np.argsort(distance, kind="stable")
    cumulative = np.cumsum(softmax(scores[None, order])[0], dtype=np.float64).astype(np.float32)
    last = min(int((cumulative < np.float32(mass)).sum()), len(scores) - 1)
    outside = distance > distance[order[last]]
    outside[order[:keep]] = False
    scores[outside] = _NOT_KEPT


class EpsilonCutoff:
    """Keeps tokens of at least a probability: Hewitt et al., 2022, "Truncation Sampling"."""

    def __init__(self, epsilon: NDArray[np.float64], keep: NDArray[np.int64]) -> None:
        self._epsilon = epsilon.astype(np.float32)
        self._keep = keep

    @classmethod
    def of(cls, rows: Rows) -> Self | None:
        """See `Warper`."""
        epsilon = rows.column("epsilon_cutoff")
        return cls(epsilon, rows.keep) if (epsilon > 0).any() else None

    def __call__(self, scores: Floats, ids: Ids) -> tuple[Floats, Ids]:
        """See `Warper`."""
        _drop_unlikely(scores, self._epsilon, self._keep)
        return scores, ids


class EtaCutoff:
    """As `EpsilonCutoff`, with min(ε, √ε · exp(−entropy)) as the probability: the same paper."""

    def __init__(self, epsilon: NDArray[np.float64], keep: NDArray[np.int64]) -> None:
        self._epsilon = epsilon.astype(np.float32)
        self._keep = keep

    @classmethod
    def of(cls, rows: Rows) -> Self | None:
        """See `Warper`."""
        epsilon = rows.column("eta_cutoff")
        return cls(epsilon, rows.keep) if (epsilon > 0).any() else None

    def __call__(self, scores: Floats, ids: Ids) -> tuple[Floats, Ids]:
        """See `Warper`."""
        probabilities = softmax(scores)
        information = np.where(probabilities > 0, -np.log(probabilities), 0)
        entropy = _total(probabilities * information)
        eta = np.minimum(self._epsilon, np.sqrt(self._epsilon) * np.exp(-entropy))
        _drop_unlikely(scores, eta.astype(np.float32), self._keep)
        return scores, ids


def _drop_unlikely(scores: Floats, least: Floats, keep: NDArray[np.int64]) -> None:
    """Drop tokens below a probability, in place, but for the best ones and those tied with them."""
    outside = softmax(scores) < least
    for row in np.flatnonzero(outside.any(axis=1)).tolist():
        kept = min(int(keep[row]), scores.shape[1])
        edge = np.partition(scores[row], -kept)[-kept]
        outside[row] &= scores[row] < edge
    np.copyto(scores, _NOT_KEPT, where=outside)


# In the order in which they act: transformers'.
WARPERS: list[type[Warper]] = [
    Temperature,
    TopK,
    TopP,
    MinP,
    TypicalP,
    EpsilonCutoff,
    EtaCutoff,
]


# The warpers that native draws know.
CUTS = (Temperature, TopK, TopP, MinP)


def cuts_alone(configs: Sequence[GenerationConfig]) -> list[bool]:
    """Whether a row's settings ask for no warpers but `CUTS`, one a row."""
    others = [kind for kind in WARPERS if kind not in CUTS]

    def alone(configs: Sequence[GenerationConfig]) -> bool:
        rows = Rows(list(configs), np.ones(len(configs), dtype=np.int64))
        return all(kind.of(rows) is None for kind in others)

    return [True] * len(configs) if alone(configs) else [alone([config]) for config in configs]


class Warpers:
    """The warpers of some rows, as arrays that are built once for many steps.

    Args:
        states: One a row.
    """

    def __init__(self, states: Sequence[SamplerState]) -> None:
        keep = np.array([state.min_tokens_to_keep for state in states], dtype=np.int64)
        rows = Rows([state.config for state in states], keep)
        made = [kind.of(rows) for kind in WARPERS] if states else []
        self._warpers = [warper for warper in made if warper is not None]

    def apply(self, scores: Floats, ids: Ids) -> tuple[Floats, Ids]:
        """Warp a step's scores.

        Args:
            scores: Sorted downwards, equal ones by rising id, shape (rows, n).
            ids: Their token ids, shape (rows, n).

        Returns:
            Scores, those not kept at minus infinity, and their ids: sorted downwards, equal
            scores by falling id.
        """
        for warper in self._warpers:
            scores, ids = warper(scores, ids)
        return scores, ids


def order_ties(scores: Floats, ids: Ids) -> tuple[Floats, Ids]:
    """Sorted scores with equal ones by falling id; those of minus infinity stay as they are.

    Args:
        scores: Sorted downwards, shape (rows, n); may be changed in place.
        ids: Their token ids, shape (rows, n).
    """
    tied = scores[:, 1:] == scores[:, :-1]
    if tied.any():
        tied &= scores[:, 1:] != _NOT_KEPT
        ids = ids.copy()
        for row in np.flatnonzero(tied.any(axis=1)).tolist():
            order = np.lexsort((-ids[row], -scores[row]))
            scores[row], ids[row] = scores[row, order], ids[row, order]
    return scores, ids


def draw(scores: Floats, ids: Ids, uniform: NDArray[np.float64]) -> Ids:
    """Draw one id a row by inverting the cumulative distribution of softmax(scores).

    Args:
        scores: Shape (rows, n); minus infinity for what is not kept.
        ids: Token ids, shape (rows, n).
        uniform: Numbers in [0, 1), shape (rows,).

    Returns:
        Token ids, shape (rows,).
    """
    drawn: Ids = ids[np.arange(len(ids)), draw_places(scores, uniform)]
    return drawn


def draw_places(scores: Floats, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """The columns that `draw` takes, shape (rows,)."""
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    cumulative = np.cumsum(weights, axis=1, dtype=np.float64)
    # The first whose sum reaches the number: never one without weight, whatever is rounded.
    wanted = np.maximum(uniform * cumulative[:, -1], np.finfo(np.float64).tiny)
    return np.asarray((cumulative < wanted[:, None]).sum(axis=1))


def softmax(scores: Floats) -> Floats:
    """Softmax along the last axis, in float32; what is not kept behind a row changes nothing."""
    exponentials: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (exponentials / _total(exponentials)).astype(np.float32)


def _total(numbers: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sums along the last axis, which stays, one number after another.

    numpy's own sums depend on how many zeros are behind the numbers: on how much other rows keep.
    """
    return np.cumsum(numbers, axis=-1, dtype=np.float64)[..., -1:]
