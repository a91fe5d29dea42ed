"""The beams of one group: what their search means in sequences, texts and results."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gpt2ja_onnx.engine.sequence import Sequence
from gpt2ja_onnx.errors import GenerationError
from gpt2ja_onnx.results import TokenLogprobs
from gpt2ja_onnx.sampling.beam_search import BeamSearch

if TYPE_CHECKING:
    from gpt2ja_onnx.device.base import Scores
    from gpt2ja_onnx.engine.group import SequenceGroup
    from gpt2ja_onnx.sampling.beam_search import Move


class Beams:
    """Sequences that are the beams of one search; they start and end together.

    Attributes:
        sequences: One a beam, by beam.
    """

    def __init__(self, group: SequenceGroup) -> None:
        self._group = group
        self.sequences = [Sequence(group, beam, self) for beam in range(group.config.num_beams)]
        self._search = BeamSearch(
            [sequence.state for sequence in self.sequences],
            group.max_length,
            self._stops if group.stop or group.grammar is not None else None,
        )

    def advance(self, scores: Scores) -> list[Move]:
        """Take one step as `BeamSearch.advance` does; hand out the best texts at the end."""
        moves = self._search.advance(scores)
        if self._group.first_token is None:  # chosen long before a text is handed out
            self._group.first_token = time.monotonic()
        if self._search.done:
            self._deliver()
            return moves
        if self._group.grammar is not None:
            self._follow(moves)
        if self._group.stop:
            texts = [sequence.text for sequence in self.sequences]
            for source, target, _ in moves:
                text = texts[source]
                assert text is not None
                self.sequences[target].text = text.fork()
            for sequence in self.sequences:
                assert sequence.text is not None
                sequence.text.push(int(sequence.state.history[-1]))
        return moves

    def _follow(self, moves: list[Move]) -> None:
        """Let the constraints go where the beams went."""
        states = [sequence.state for sequence in self.sequences]
        for source, target, _ in moves:
            constraint = states[source].constraint
            assert constraint is not None
            states[target].constraint = constraint.fork()
        for state in states:
            assert state.constraint is not None
            state.constraint.advance(int(state.history[-1]))

    def _stops(self, beam: int, token: int) -> bool:
        constraint = self.sequences[beam].state.constraint
        if constraint is not None:
            constraint = constraint.fork()
            constraint.advance(token)
            return constraint.complete
        text = self.sequences[beam].text
        assert text is not None
        text = text.fork()
        text.push(token)
        return text.stopped

    def _deliver(self) -> None:
        wanted = self._group.config.num_return_sequences
        best = self._search.hypotheses[:wanted]
        if len(best) < wanted:
            self._group.fail(
                GenerationError(
                    f"the settings leave the beams {len(best)} texts, num_return_sequences is "
                    f"{wanted}; ask for fewer, or let more tokens be kept"
                )
            )
            return
        for index, hypothesis in enumerate(best):
            sequence = Sequence(self._group, index)
            sequence.logprobs = [TokenLogprobs(*entry) for entry in hypothesis.logprobs]
            for token in hypothesis.tokens.tolist():
                sequence.append(token)
