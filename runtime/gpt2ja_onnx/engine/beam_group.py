"""The beams of one request: what their search means in sequences, texts and results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_onnx.engine.request import Sequence, TokenLogprobs
from gpt2ja_onnx.errors import GenerationError
from gpt2ja_onnx.sampling.beam_search import BeamSearch

if TYPE_CHECKING:
    from gpt2ja_onnx.device.logits import Logits
    from gpt2ja_onnx.engine.request import Request
    from gpt2ja_onnx.sampling.beam_search import Move
    from gpt2ja_onnx.sampling.warpers import Floats, Ids


class BeamGroup:
    """Sequences that are the beams of one search; they start and end together.

    Attributes:
        sequences: One a beam, by beam.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self.sequences = [Sequence(request, beam, self) for beam in range(request.config.num_beams)]
        self._search = BeamSearch(
            [sequence.state for sequence in self.sequences],
            request.max_length,
            self._stops if request.config.stop else None,
        )

    def advance(self, scores: Floats, ids: Ids, logits: Logits) -> list[Move]:
        """Take one step as `BeamSearch.advance` does; hand out the best texts at the end."""
        moves = self._search.advance(scores, ids, logits)
        if self._search.done:
            self._deliver()
        elif self._request.config.stop:
            for source, target, _ in moves:
                self.sequences[target].text = self.sequences[source].text.fork()
            for sequence in self.sequences:
                sequence.text.push(int(sequence.state.history[-1]))
        return moves

    def _stops(self, beam: int, token: int) -> bool:
        text = self.sequences[beam].text.fork()
        text.push(token)
        return text.stopped

    def _deliver(self) -> None:
        wanted = self._request.config.num_return_sequences
        best = self._search.hypotheses[:wanted]
        if len(best) < wanted:
            self._request.fail(
                GenerationError(
                    f"the settings leave the beams {len(best)} texts, num_return_sequences is "
                    f"{wanted}; ask for fewer, or let more tokens be kept"
                )
            )
            return
        for index, hypothesis in enumerate(best):
            sequence = Sequence(self._request, index)
            sequence.logprobs = [TokenLogprobs(*entry) for entry in hypothesis.logprobs]
            for token in hypothesis.tokens.tolist():
                self._request.deliver(sequence, sequence.append(token), token)
