"""From the scores of a step to its tokens, which are handed out, and to beams that move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.errors import GenerationError, OutOfMemoryError
from gpt2ja_onnx.results import TokenLogprobs
from gpt2ja_onnx.sampling.log_probabilities import log_probabilities
from gpt2ja_onnx.sampling.sampler import Sampler, broken_scores

if TYPE_CHECKING:
    from gpt2ja_onnx.device.base import Scores
    from gpt2ja_onnx.engine.batch import Batch
    from gpt2ja_onnx.engine.sequence import Search, Sequence


class Advance:
    """Chooses a token for every sequence; whatever fails in one group's work ends that group alone.

    Args:
        batch: The running sequences, whose rows follow the beams.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._sampler = Sampler()

    def __call__(self, sequences: list[Sequence], scores: Scores) -> None:
        """Choose a token for each sequence and hand out what came of it.

        Args:
            sequences: One a row; the beams of a search are all there or none.
            scores: Of the same rows.
        """
        if any(sequence.search is not None for sequence in sequences):
            self._advance_beams(sequences, scores)
            alone = [row for row, s in enumerate(sequences) if s.search is None]
            if not alone:
                return
            sequences, scores = [sequences[row] for row in alone], scores.take(alone)
        choices = self._sampler.choose(scores, [sequence.state for sequence in sequences])
        for row, (sequence, choice) in enumerate(zip(sequences, choices, strict=True)):
            if isinstance(choice, GenerationError):
                sequence.group.fail(choice)
                continue
            try:
                _append(sequence, choice, scores, row)
            except Exception as error:
                sequence.group.fail(_failure(error))

    def forget(self) -> None:
        """Keep nothing of the last step."""
        self._sampler.forget()

    def _advance_beams(self, sequences: list[Sequence], scores: Scores) -> None:
        finite = scores.finite()
        searches: dict[Search, list[int]] = {}
        for row, sequence in enumerate(sequences):
            if sequence.search is not None:
                searches.setdefault(sequence.search, []).append(row)
        for search, rows in searches.items():
            group = sequences[rows[0]].group
            if not all(finite[row] for row in rows):
                group.fail(broken_scores())
                continue
            rows.sort(key=lambda row: sequences[row].index)
            try:
                with np.errstate(all="ignore"):
                    moves = search.advance(scores.take(rows))
                self._batch.reorder(search, moves)
            except OutOfMemoryError as error:  # its rows are of no use now
                group.fail(no_memory(error))
            except GenerationError as error:
                group.fail(error)
            except Exception as error:
                group.fail(_failure(error))


def _append(sequence: Sequence, token: int, scores: Scores, row: int) -> None:
    count = sequence.group.config.logprobs
    if count is not None:
        entry = log_probabilities(scores, row, token, count)
        sequence.logprobs.append(TokenLogprobs(*entry))
    sequence.append(token)


def no_memory(error: OutOfMemoryError) -> GenerationError:
    """The error of a group for which the device has no memory."""
    failure = GenerationError(f"there is no memory for the request: {error}")
    failure.__cause__ = error
    return failure


def _failure(error: Exception) -> GenerationError:
    failure = GenerationError(f"the request failed: {str(error) or type(error).__name__}")
    failure.__cause__ = error
    return failure
