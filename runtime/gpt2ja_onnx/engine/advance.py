"""What the scores of a step mean for its sequences: tokens, handed out, and beams that move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.engine.request import Sequence, TokenLogprobs
from gpt2ja_onnx.errors import GenerationError
from gpt2ja_onnx.sampling.sampler import log_probabilities

if TYPE_CHECKING:
    from gpt2ja_onnx.device.logits import Logits
    from gpt2ja_onnx.engine.beam_group import BeamGroup
    from gpt2ja_onnx.sampling.beam_search import Move
    from gpt2ja_onnx.sampling.sampler import Sampler
    from gpt2ja_onnx.sampling.warpers import Floats, Ids

_BROKEN_SCORES = "the model gave scores that are NaN or infinite"


def take_tokens(
    sampler: Sampler, sequences: list[Sequence], scores: Floats, ids: Ids, logits: Logits
) -> list[tuple[BeamGroup, list[Move]]]:
    """Choose a token for each sequence and hand out what came of it.

    Args:
        sampler: Chooses them.
        sequences: One a row; the beams of a search are all there or none.
        scores: Best scores of each row, sorted downwards, shape (rows, candidates).
        ids: Their token ids, shape (rows, candidates).
        logits: All scores, shape (rows, vocabulary).

    Returns:
        For each beam search among them, how its rows must move.
    """
    # The candidates tell: where a row's state is broken all its scores are NaN, and infinity is
    # the best of scores.
    finite: list[bool] = np.logical_and.reduce(np.isfinite(scores), axis=1).tolist()
    moves: list[tuple[BeamGroup, list[Move]]] = []
    if any(sequence.group is not None for sequence in sequences):
        moves = _advance_beams(sequences, finite, scores, ids, logits)
    alone = [row for row, s in enumerate(sequences) if s.group is None and finite[row]]
    if len(alone) < len(sequences):
        for row, sequence in enumerate(sequences):
            if sequence.group is None and not finite[row]:
                sequence.request.fail(GenerationError(_BROKEN_SCORES))
        if not alone:
            return moves
        sequences = [sequences[row] for row in alone]
        scores, ids, logits = scores[alone], ids[alone], logits[alone]
    tokens = sampler.choose(scores, ids, logits, [sequence.state for sequence in sequences])
    for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
        if isinstance(token, GenerationError):
            sequence.request.fail(token)
            continue
        if (count := sequence.request.config.logprobs) is not None:
            entry = log_probabilities(logits[row], token, ids[row], count)
            sequence.logprobs.append(TokenLogprobs(*entry))
        sequence.request.deliver(sequence, sequence.append(token), token)
    return moves


def _advance_beams(
    sequences: list[Sequence], finite: list[bool], scores: Floats, ids: Ids, logits: Logits
) -> list[tuple[BeamGroup, list[Move]]]:
    groups: dict[BeamGroup, list[int]] = {}
    for row, sequence in enumerate(sequences):
        if sequence.group is not None:
            groups.setdefault(sequence.group, []).append(row)
    moves = []
    for group, rows in groups.items():
        if not all(finite[row] for row in rows):
            sequences[rows[0]].request.fail(GenerationError(_BROKEN_SCORES))
            continue
        rows.sort(key=lambda row: sequences[row].index)
        moves.append((group, group.advance(scores[rows], ids[rows], logits[rows])))
    return moves
