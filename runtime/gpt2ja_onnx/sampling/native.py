"""Choosing tokens by the native operators, where no row needs more than they know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_kernels.chooser import CHOICE, DRAW, DRAW_FROM_ALL, LEAVE, TAKE_BEST, WATCHED
from gpt2ja_onnx.errors import GenerationError
from gpt2ja_onnx.sampling.processors import (
    CountPenalties,
    NoRepeatNgrams,
    RepetitionPenalty,
    watched_tokens,
)
from gpt2ja_onnx.sampling.warpers import COLDEST, Rows, cuts_alone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_kernels import Kernels
    from gpt2ja_onnx.constraints.constraint import Constraint
    from gpt2ja_onnx.device.base import Floats, Ids, Scores
    from gpt2ja_onnx.sampling.candidates import Candidates
    from gpt2ja_onnx.sampling.processors import Processor
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
        rows = Rows([state.config for state in states], np.ones(len(states), dtype=np.int64))
        draws = rows.column("do_sample")[:, 0] > 0
        top_p, most = rows.column("top_p")[:, 0], np.iinfo(np.int32).max
        choices = np.zeros(len(states), dtype=CHOICE)
        choices["kind"] = np.where(
            draws, np.where(cuts_alone(rows.configs), DRAW, LEAVE), TAKE_BEST
        )
        choices["kind"][candidates.unbounded] = DRAW_FROM_ALL
        choices["temperature"] = np.maximum(rows.column("temperature")[:, 0], COLDEST)
        choices["top_k"] = [config.top_k or most for config in rows.configs]
        choices["limit"] = np.where(top_p < 1, 1 - top_p, -1)
        choices["min_p"] = rows.column("min_p")[:, 0]
        choices["edge"] = -1 if candidates.complete else candidates.edge
        choices["repetition"], choices["watched"] = 1, -1
        self._states = states
        self._penalised: list[int] = []
        self._others: list[list[Processor]] = []  # of each row, which numpy alone knows
        self._constraints: dict[int, Constraint] = {}
        for row, state in enumerate(states):
            others = [kind for kind in state.processors if not _set_penalty(choices[row], kind)]
            self._others.append(others)
            tokens = watched_tokens(others)
            if tokens is None or len(tokens) > WATCHED:
                choices["edge"][row] = candidates.count - 1  # which leaves it to numpy
                if row in candidates.unbounded:
                    choices["kind"][row] = LEAVE
                continue
            choices["watched"][row, : len(tokens)] = tokens
            if len(others) < len(state.processors):
                self._penalised.append(row)
            if state.constraint is not None:
                self._constraints[row] = state.constraint
        self._reads_all = bool(self._constraints or candidates.unbounded)
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
        for row in self._penalised:
            self._chooser.follow(row, self._states[row].history)
        for row, constraint in self._constraints.items():
            try:
                self._chooser.allow(row, constraint.mask())
            except GenerationError:  # it fails again, with its own row
                failed.append(row)
        every = scores.logits.read() if self._reads_all else None
        tokens = self._chooser(scores.candidates, scores.ids, uniform, every)
        for row, token in enumerate(tokens):
            if token < LEFT:
                history = self._states[row].history
                changed = any(processor.active(history) for processor in self._others[row])
                tokens[row] = LEFT if changed else -2 - token
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


def _set_penalty(choice: np.void, processor: Processor) -> bool:
    """Let native operators do what a processor does; whether they can."""
    if not processor.lowers_only:
        return False
    if isinstance(processor, RepetitionPenalty):
        choice["repetition"] = processor.penalty
    elif isinstance(processor, CountPenalties):
        choice["presence"], choice["frequency"] = processor.presence, processor.frequency
        choice["prompt"] = processor.prompt
    elif isinstance(processor, NoRepeatNgrams):
        choice["ngram"] = processor.size
    else:
        return False
    return True
