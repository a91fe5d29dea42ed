"""What the scores of a step mean for its sequences: tokens, handed out, and beams that move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.errors import GenerationError
from gpt2ja_onnx.request import Sequence, TokenLogprobs
from gpt2ja_onnx.sampler import choose, log_probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2ja_onnx.beam import Move
    from gpt2ja_onnx.beam_group import BeamGroup
    from gpt2ja_onnx.logits import Logits
    from gpt2ja_onnx.sampler import Floats, Ids

_BROKEN_SCORES = "the model gave scores that are NaN or infinite"


def take_tokens(
    sequences: list[Sequence], scores: Floats, ids: Ids, logits: Logits
) -> list[tuple[BeamGroup, list[Move]]]:
    """Choose a token for each sequence and hand out what came of it.

    Args:
        sequences: One a row; the beams of a search are all there or none.
        scores: Best scores of each row, sorted downwards, shape (rows, candidates).
        ids: Their token ids, shape (rows, candidates).
        logits: All scores, shape (rows, vocabulary).

    Returns:
        For each beam search among them, how its rows must move.
    """
    # One sum a row finds every NaN and infinity at the price of one pass; logits on a device
    # were summed there, and the candidates tell.
    summed = logits if isinstance(logits, np.ndarray) else scores
    finite = np.isfinite(np.add.reduce(summed, axis=1))
    moves: list[tuple[BeamGroup, list[Move]]] = []
    if any(sequence.group is not None for sequence in sequences):
        moves = _advance_beams(sequences, finite, scores, ids, logits)
        alone = [row for row, sequence in enumerate(sequences) if sequence.group is None]
        if not alone:
            return moves
        sequences = [sequences[row] for row in alone]
        finite, scores, ids, logits = finite[alone], scores[alone], ids[alone], logits[alone]
    tokens = choose(scores, ids, logits, [sequence.state for sequence in sequences])
    for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
        if not finite[row]:
            token = GenerationError(_BROKEN_SCORES)
        if isinstance(token, GenerationError):
            sequence.request.fail(token)
            continue
        if (count := sequence.request.config.logprobs) is not None:
            entry = log_probabilities(logits[row], token, ids[row], count)
            sequence.logprobs.append(TokenLogprobs(*entry))
        sequence.request.deliver(sequence, sequence.append(token), token)
    return moves


def _advance_beams(
    sequences: list[Sequence], finite: NDArray[np.bool_], scores: Floats, ids: Ids, logits: Logits
) -> list[tuple[BeamGroup, list[Move]]]:
    groups: dict[BeamGroup, list[int]] = {}
    for row, sequence in enumerate(sequences):
        if sequence.group is not None:
            groups.setdefault(sequence.group, []).append(row)
    moves = []
    for group, rows in groups.items():
        if not finite[rows].all():
            sequences[rows[0]].request.fail(GenerationError(_BROKEN_SCORES))
            continue
        rows.sort(key=lambda row: sequences[row].index)
        moves.append((group, group.advance(scores[rows], ids[rows], logits[rows])))
    return moves
