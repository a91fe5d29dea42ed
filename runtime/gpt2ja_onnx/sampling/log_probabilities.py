"""Log-probabilities from raw scores, before any setting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_onnx.device.log_normaliser import log_normalisers

if TYPE_CHECKING:
    from gpt2ja_onnx.device.base import Floats, Ids


def log_normaliser(logits: Floats) -> float:
    """The logarithm of the sum of exp(logits), which log-probabilities are less than scores by.

    Args:
        logits: Raw scores, shape (vocabulary,).
    """
    return float(log_normalisers(logits))


def log_probabilities(
    logits: Floats, chosen: int, ids: Ids, count: int
) -> tuple[float, list[tuple[int, float]]]:
    """Log-probability of the chosen token and of the `count` best ones, before any setting.

    Args:
        logits: Raw scores, shape (vocabulary,).
        chosen: A token id.
        ids: Candidates by falling score, shape (candidates,).
        count: How many best tokens to report; at most the number of candidates.
    """
    total = log_normaliser(logits)
    best = [(int(token), float(logits[token]) - total) for token in ids[:count]]
    return float(logits[chosen]) - total, best
