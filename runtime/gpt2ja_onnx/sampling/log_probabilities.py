"""Log-probabilities from raw scores, before any setting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_onnx.device.log_normaliser import log_normalisers

if TYPE_CHECKING:
    from gpt2ja_onnx.device.base import Floats, Scores


def log_normaliser(logits: Floats) -> float:
    """The logarithm of the sum of exp(logits), which log-probabilities are less than scores by.

    Args:
        logits: Raw scores, shape (vocabulary,).
    """
    return float(log_normalisers(logits))


def log_probabilities(
    scores: Scores, row: int, chosen: int, count: int
) -> tuple[float, list[tuple[int, float]]]:
    """Log-probability of a chosen token and of the `count` best ones, before any setting.

    Args:
        scores: Of some rows.
        row: Which of them.
        chosen: A token id.
        count: How many best tokens to report; at most the number of candidates.
    """
    logits = scores.logits.row(row)
    total = float(log_normalisers(logits, scores.logits.native))
    best, ids = scores.candidates[row, :count].tolist(), scores.ids[row, :count].tolist()
    return logits.item(chosen) - total, [
        (token, score - total) for token, score in zip(ids, best, strict=True)
    ]
