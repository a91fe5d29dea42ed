"""Log-probability and perplexity of texts of any length."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.device.cpu.session import Session

# Tokens a call: bounds the memory of the logits, 4 bytes × vocabulary each.
_CALL_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a text is.

    Attributes:
        text: The text; the empty string when ids were given.
        tokens: Number of its tokens.
        logprob: Sum of the log-probabilities, in nats, of all tokens but the first, which has
            nothing before it to be predicted from.
        perplexity: exp(-logprob / (tokens - 1)); None for fewer than two tokens.
    """

    text: str
    tokens: int
    logprob: float
    perplexity: float | None


class _Window(NamedTuple):
    """Tokens `start` to `stop` of a text; those from `fresh` on are scored here."""

    text: int
    start: int
    stop: int
    fresh: int


class Scorer:
    """Scores token ids with a session of its own cache; safe to call from several threads."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()

    def score(self, texts: Sequence[Sequence[int]], stride: int | None = None) -> list[float]:
        """Sum of the log-probabilities of each text's tokens but the first.

        A text longer than the context is read in windows that advance by `stride` tokens (half
        a context by default), so that a scored token has at least context - stride before it.

        Args:
            texts: Token ids.
            stride: Tokens between the starts of two windows, below the context: windows overlap,
                so that every token has one before it.
        """
        context = self._session.shape.context
        stride = stride or context // 2
        totals = [0.0] * len(texts)
        windows = [
            window
            for index, ids in enumerate(texts)
            for window in _windows(index, len(ids), context, stride)
        ]
        windows.sort(key=lambda window: window.stop - window.start)
        with self._lock:
            for group in _batches(windows):
                for window, logprob in zip(group, self._run(group, texts), strict=True):
                    totals[window.text] += logprob
        return totals

    def _run(self, group: list[_Window], texts: Sequence[Sequence[int]]) -> list[float]:
        """Sum of the fresh tokens' log-probabilities of every window."""
        lengths = np.array([window.stop - window.start for window in group])
        longest = int(lengths.max())
        ids = np.zeros((len(group), longest), dtype=np.int64)
        for row, window in enumerate(group):
            ids[row, : lengths[row]] = texts[window.text][window.start : window.stop]
        cache = self._session.new_cache()
        cache.reserve(len(group), longest, 0)
        logprobs = np.zeros((len(group), longest))
        # Only a batch of one continues a prompt, so a longer call is one row's alone.
        width = longest if len(group) > 1 else _CALL_TOKENS
        fresh = np.array([window.fresh - window.start for window in group])
        for start in range(0, longest, width):
            stop = min(start + width, longest)
            plan = self._session.plan(
                len(group), stop - start, stop - start, cache.slices(0, len(group))
            )
            plan.input_ids[:] = ids[:, start:stop]
            plan.position_ids[:] = np.arange(start, stop)
            plan.logit_positions[:] = np.arange(stop - start)
            plan.lengths[:] = np.minimum(lengths, stop)
            plan.run()
            # The scores at position i predict the token at i + 1.
            positions = np.arange(start + 1, min(stop, longest - 1) + 1)
            counted = (positions >= fresh[:, None]) & (positions < lengths[:, None])
            logits = np.asarray(plan.logits)[:, : len(positions)]
            chosen = np.take_along_axis(logits, ids[:, positions][..., None], axis=2)[..., 0]
            logprobs[:, positions] = np.where(counted, chosen - _log_sum_exp(logits), 0.0)
        # Rounded once, so that a sum does not depend on how wide the other texts make the batch.
        return [math.fsum(row) for row in logprobs]


def perplexity(logprob: float, tokens: int) -> float | None:
    """Exp of the mean negative log-probability of the tokens that were scored."""
    if tokens < 2:
        return None
    mean = -logprob / (tokens - 1)
    return math.exp(mean) if mean < 700 else math.inf


def _windows(text: int, length: int, context: int, stride: int) -> Iterator[_Window]:
    fresh = 1
    for start in range(0, max(length - 1, 0), stride):
        stop = min(start + context, length)
        yield _Window(text, start, stop, fresh)
        fresh = stop
        if stop == length:
            return


def _batches(windows: list[_Window]) -> Iterator[list[_Window]]:
    """Consecutive windows, rising in length, of which a call takes several or a long one alone."""
    group: list[_Window] = []
    for window in windows:
        longest = window.stop - window.start
        if group and longest * (len(group) + 1) > _CALL_TOKENS:
            yield group
            group = []
        group.append(window)
    if group:
        yield group


def _log_sum_exp(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    top = logits.max(axis=-1, keepdims=True)
    total = np.exp(logits - top).sum(axis=-1, dtype=np.float64)
    result: NDArray[np.float64] = top[..., 0] + np.log(total)
    return result
