"""Choosing tokens by the native operators, where no row needs more than they know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_kernels.chooser import CHOICE, DRAW, LEAVE, TAKE_BEST
from gpt2ja_onnx.errors import GenerationError
from gpt2ja_onnx.sampling.warpers import COLDEST, Rows, cuts_alone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_kernels import Kernels
    from gpt2ja_onnx.device.base import Floats, Ids, Scores
    from gpt2ja_onnx.sampling.candidates import Candidates
    from gpt2ja_onnx.sampling.state import SamplerState

# A row that is left to numpy.
LEFT = -1


class NativeChoices:
    """Chooses the tokens that numpy would choose, or leaves a row to it.

    Args:
        native: The native operators.
        states: One a row.
        candidates: Of these rows.
        vocab_size: Scores of a row.
    """

    def __init__(
        self,
        native: Kernels,
        states: Sequence[SamplerState],
        candidates: Candidates,
        vocab_size: int,
    ) -> None:
        self._states = states
        self._constraints = {
            row: state.constraint
            for row, state in enumerate(states)
            if state.constraint is not None and row not in candidates.processed
        }
        rows = Rows([state.config for state in states], np.ones(len(states), dtype=np.int64))
        draws = rows.column("do_sample")[:, 0] > 0
        top_p, most = rows.column("top_p")[:, 0], np.iinfo(np.int32).max
        choices = np.zeros(len(states), dtype=CHOICE)
        choices["kind"] = np.where(
            draws, np.where(cuts_alone(rows.configs), DRAW, LEAVE), TAKE_BEST
        )
        choices["temperature"] = np.maximum(rows.column("temperature")[:, 0], COLDEST)
        choices["top_k"] = [min(config.top_k or most, most) for config in rows.configs]
        choices["limit"] = np.where(top_p < 1, 1 - top_p, -1)
        choices["min_p"] = rows.column("min_p")[:, 0]
        choices["edge"] = -1 if candidates.complete else candidates.edge
        choices["edge"][candidates.processed] = candidates.count - 1  # which leaves them to numpy
        choices["watched"] = -1
        for row, tokens in candidates.watched.items():
            choices["watched"][row, : len(tokens)] = tokens
        self._chooser = native.chooser(choices, vocab_size)

    def choose(self, scores: Scores, uniform: NDArray[np.float64]) -> list[int]:
        """Choose a token for every row.

        Args:
            scores: Of every row.
            uniform: Numbers in [0, 1), shape (rows,).

        Returns:
            A token a row, or `LEFT`.
        """
        failed = []
        for row, constraint in self._constraints.items():
            try:
                self._chooser.allow(row, constraint.mask())
            except GenerationError:  # it fails again, with its own row
                failed.append(row)
        every = scores.logits.read() if self._constraints else None
        tokens = self._chooser(scores.candidates, scores.ids, uniform, every)
        for row, token in enumerate(tokens):
            if token < LEFT:
                tokens[row] = LEFT if self._states[row].processed else -2 - token
        for row in failed:
            tokens[row] = LEFT
        return tokens

    def choose_from(self, scores: Floats, ids: Ids, uniform: NDArray[np.float64]) -> list[int]:
        """Choose from scores that processors have changed.

        Args:
            scores: Sorted downwards, equal ones by rising id, shape (rows, n).
            ids: Their token ids, shape (rows, n).
            uniform: Numbers in [0, 1), shape (rows,).

        Returns:
            A token a row, or `LEFT`.
        """
        return self._chooser(scores, ids, uniform, changed=True)
