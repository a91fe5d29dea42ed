"""Choosing tokens in one call a step, with arguments that are made once for many of them."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# Tokens of a row that can be watched.
WATCHED = 8
# What is done with a row: it is left to the caller, the best is taken, one is drawn from the best,
# or from all by nucleus, without top_k.
LEAVE, TAKE_BEST, DRAW, DRAW_FROM_ALL = range(4)
# How a row's token is chosen; `Choice` in ``choose.h``.
#
# temperature: What scores are divided by.
# top_k: Scores that are kept at most.
# limit: The part of all probability that a token and those behind it must exceed to be kept,
#   below 0 for no such bound.
# min_p: Least weight that is kept, of the best token's.
# history, length: Written by `Chooser.follow`.
# prompt: Tokens of the history that are the prompt's.
# repetition, presence, frequency: Penalties; 1, 0 and 0 for none.
# ngram: Tokens of an n-gram that may be there once; 0 for none.
# allowed: Written by `Chooser.allow`.
# watched: Tokens whose scores the caller may change; -1 for none, behind the others.
# edge: The place of the last score that can be kept; the last of all must be below it. -1 where
#   there are no others than the best.
# kind: One of the four above.
CHOICE = np.dtype(
    [
        ("temperature", np.float32),
        ("top_k", np.int32),
        ("limit", np.float64),
        ("min_p", np.float64),
        ("history", np.uintp),
        ("length", np.int32),
        ("prompt", np.int32),
        ("repetition", np.float32),
        ("presence", np.float32),
        ("frequency", np.float32),
        ("ngram", np.int32),
        ("allowed", np.uintp),
        ("watched", np.int64, WATCHED),
        ("edge", np.int32),
        ("kind", np.int32),
    ],
    align=True,
)


class Chooser:
    """Chooses a token for each of some rows.

    Caches are cold after the graph has run, and Python slow: a call over the arrays of the one
    before makes no arguments anew.

    Args:
        function: ``gpt2ja_choose``.
        choices: How, one a row, shape (rows,), of the type `CHOICE`.
        vocab_size: Scores of a row.
    """

    def __init__(
        self, function: Callable[..., None], choices: NDArray[np.void], vocab_size: int
    ) -> None:
        assert choices.dtype == CHOICE
        self._function = function
        self._choices = choices.copy()
        self._choices["allowed"] = self._choices["history"] = self._choices["length"] = 0
        self._lengths, self._starts = self._choices["length"], self._choices["history"]
        self._histories: dict[int, NDArray[np.int64]] = {}
        self._vocab_size = vocab_size
        self._allowed: dict[int, NDArray[np.uint8]] = {}
        self._tokens = np.empty(len(choices), dtype=np.int64)
        self._given: list[NDArray[np.generic] | None] = [None] * 4
        self._arguments: list[object] = []

    def allow(self, row: int, bits: NDArray[np.uint8]) -> None:
        """Let a row choose among some tokens only.

        Args:
            row: Which row.
            bits: A bit for each token that may follow, the lowest of a byte first, shape
                (vocabulary / 8,) rounded up, or longer. They are read with every call, and may
                be changed in between.
        """
        if self._allowed.get(row) is not bits:
            assert bits.dtype == np.uint8
            assert bits.flags.c_contiguous
            assert 8 * bits.size >= self._vocab_size
            self._allowed[row] = bits
            self._choices["allowed"][row] = bits.ctypes.data

    def follow(self, row: int, history: NDArray[np.int64]) -> None:
        """Say what a row's text holds, for its penalties.

        Args:
            row: Which row.
            history: Token ids of prompt and text, shape (length,), contiguous.
        """
        assert history.dtype == np.int64
        assert history.flags.c_contiguous
        self._histories[row] = history
        self._lengths[row] = len(history)
        self._starts[row] = history.ctypes.data

    def __call__(
        self,
        best: NDArray[np.float32],
        ids: NDArray[np.int64],
        uniform: NDArray[np.float64],
        scores: NDArray[np.float32] | None = None,
        *,
        changed: bool = False,
    ) -> list[int]:
        """Choose.

        Args:
            best: The best scores of each row, sorted downwards, shape (rows, n).
            ids: Their token ids, shape (rows, n).
            uniform: Numbers in [0, 1), shape (rows,).
            scores: All scores, shape (rows, vocabulary); needed where a row may not choose among
                all tokens, or draws from all.
            changed: Whether the best scores are no longer the graph's: then nothing is looked at
                but them.

        Returns:
            A token a row; -2 - token where that stands only if no watched one's score changes; -1
            where the caller has to choose, as ``choose.h`` has it.
        """
        for new, old in zip((best, ids, uniform, scores), self._given, strict=True):
            if new is not old:
                self._bind(best, ids, uniform, scores)
                break
        self._function(*self._arguments, changed)
        tokens: list[int] = self._tokens.tolist()
        return tokens

    def _bind(
        self,
        best: NDArray[np.float32],
        ids: NDArray[np.int64],
        uniform: NDArray[np.float64],
        scores: NDArray[np.float32] | None,
    ) -> None:
        rows, count = len(self._choices), best.shape[1]
        assert best.shape == ids.shape == (rows, count)
        assert uniform.shape == (rows,)
        assert best.dtype == np.float32
        assert ids.dtype == np.int64
        assert uniform.dtype == np.float64
        # Those that are no longer the caller's are copied again with the next call.
        best, ids = np.ascontiguousarray(best), np.ascontiguousarray(ids)
        uniform = np.ascontiguousarray(uniform)
        if scores is not None:
            assert scores.dtype == np.float32
            assert scores.shape == (rows, self._vocab_size)
            scores = np.ascontiguousarray(scores)
        self._given = [best, ids, uniform, scores]
        self._arguments = [
            _address(self._choices),
            ctypes.c_size_t(rows),
            _address(best),
            _address(ids),
            ctypes.c_int(count),
            None if scores is None else _address(scores),
            ctypes.c_int(self._vocab_size),
            _address(uniform),
            _address(self._tokens),
        ]


def _address(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
