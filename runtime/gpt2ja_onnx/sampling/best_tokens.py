"""The best tokens of one row, after the processors that change single tokens' scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gpt2ja_kernels import Kernels
    from gpt2ja_onnx.device.base import Floats, Ids
    from gpt2ja_onnx.sampling.state import SamplerState

# Scores that the native operators give at most, and how many beyond those that are kept show
# whether others tie with the last of them.
_MOST_NATIVE, _BEYOND = 256, 8


def best_tokens(
    scores: Floats, ids: Ids, logits: Floats, state: SamplerState, native: Kernels | None = None
) -> tuple[Floats, Ids]:
    """The best tokens of one row.

    Args:
        scores: Best scores, sorted downwards, shape (candidates,).
        ids: Their token ids, shape (candidates,).
        logits: All scores, shape (vocabulary,); read only when the candidates are not enough.
        state: The sequence's settings and history.
        native: What finds the best of many scores; the result is the same without it.

    Returns:
        Changed scores and their ids, sorted downwards, equal scores by rising id: at least the
        `state.kept_at_most` best ones and those tied with the last of them.

    Raises:
        GenerationError: A processor of the user's own failed.
    """
    complete = len(scores) == len(logits)
    best = best_of_candidates(scores, ids, state, complete=complete)
    return best_of_all(logits, state, native) if best is None else best


def best_of_candidates(
    scores: Floats, ids: Ids, state: SamplerState, *, complete: bool
) -> tuple[Floats, Ids] | None:
    """As `best_tokens`, from the candidates; None if all scores must be looked at.

    Args:
        scores: Best scores, sorted downwards, shape (candidates,).
        ids: Their token ids, shape (candidates,).
        state: The sequence's settings and history.
        complete: Whether the candidates are the whole vocabulary.
    """
    kept = state.kept_at_most
    if not complete and not 0 < kept < len(scores):
        return None
    if active := state.active:
        # As long as scores only fall, no token outside can rise above the lowest raw candidate.
        if complete or not all(processor.lowers_only for processor in active):
            return None
        if state.constraint is not None and state.constraint.count_allowed() <= len(scores):
            return None  # the few that may follow are looked at sooner than the candidates
        lowest = scores[-1]
        scores = scores.copy()
        process(scores, ids, state)
        order = np.lexsort((ids, -scores))
        scores, ids = scores[order], ids[order]
        return (scores, ids) if scores[kept - 1] > lowest else None
    if not complete and not scores[kept - 1] > scores[-1]:
        return None
    return scores, ids


def best_of_all(
    logits: Floats, state: SamplerState, native: Kernels | None = None
) -> tuple[Floats, Ids]:
    """As `best_tokens`, from all scores, shape (vocabulary,)."""
    every = state.possible_tokens(len(logits))
    scores = logits[every]
    process(scores, every, state)
    kept = state.kept_at_most
    if 0 < kept < len(scores):
        if native is not None and kept + _BEYOND <= min(_MOST_NATIVE, len(scores)):
            best, places = native.best(scores, kept + _BEYOND)
            if best[kept - 1] > best[-1]:
                count = int((best >= best[kept - 1]).sum())
                return best[:count], every[places[:count]]
        edge = np.partition(scores, -kept)[-kept]
        inside = np.flatnonzero(scores >= edge)
        scores, every = scores[inside], every[inside]
    order = np.lexsort((every, -scores))
    return scores[order], every[order]


def process(scores: Floats, ids: Ids, state: SamplerState) -> None:
    """Apply the processors of a sequence, in place and in their order.

    Args:
        scores: Shape (n,).
        ids: Their token ids, shape (n,).
        state: The sequence's settings and history.
    """
    for processor in state.active:
        processor(state.history, scores, ids)
