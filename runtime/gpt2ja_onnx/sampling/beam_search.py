"""Beam search for one prompt, on ids and scores alone: what goes on, what has ended, when to stop.

Candidates, scores and stopping rules are those of transformers 4.57. What it marks with a score
of -1e9 is minus infinity here, so that a score below that changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpt2ja_onnx.sampling.best_tokens import best_tokens
from gpt2ja_onnx.sampling.log_probabilities import log_normaliser, log_probabilities
from gpt2ja_onnx.sampling.warpers import Warpers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.device.base import Floats, Ids, Scores
    from gpt2ja_onnx.sampling.state import SamplerState

    Logprobs = list[tuple[float, list[tuple[int, float]]]]


class Move(NamedTuple):
    """Beam `target` goes on from the text of beam `source`; they differ from `start` on."""

    source: int
    target: int
    start: int


class Candidate(NamedTuple):
    """A beam with one more token, and the log-probability of its text after the prompt."""

    score: float
    beam: int
    token: int


@dataclass(frozen=True, slots=True, eq=False)
class Hypothesis:
    """A text that has ended.

    Attributes:
        score: Log-probability of its tokens, divided by their number to the length penalty.
        tokens: Their ids, without those of the prompt, shape (length,).
        logprobs: One entry a token as `log_probabilities` gives it, where asked for.
    """

    score: float
    tokens: Ids
    logprobs: Logprobs


class BeamSearch:
    """The beams of one prompt.

    Args:
        states: One a beam, all with the prompt as their history; `advance` lengthens it. A search
            that draws takes the random stream of the first one.
        max_length: Tokens at which a text ends, those of the prompt included.
        stops: Whether a beam's text ends with a token, besides with the end token.

    Attributes:
        hypotheses: The best texts that have ended, best first; at most one a beam.
        done: Whether the search is over.
    """

    def __init__(
        self,
        states: Sequence[SamplerState],
        max_length: int,
        stops: Callable[[int, int], bool] | None = None,
    ) -> None:
        self._states = states
        self._config = states[0].config
        self._warpers = Warpers([states[0]])
        self._count = states[0].beam_candidates
        self._max_length = max_length
        self._stops = stops
        # The beams are equal at first: the continuations of one are enough.
        self._scores = [0.0] + [-np.inf] * (len(states) - 1)
        self._logprobs: list[Logprobs] = [[] for _ in states]
        self.hypotheses: list[Hypothesis] = []
        self.done = False

    def advance(self, scores: Scores) -> list[Move]:
        """Take one step.

        Args:
            scores: One row a beam.

        Returns:
            What changes for beams that go on from another beam's text, where that differs. No
            source is a target of another move, so they may be made in any order.
        """
        candidates = self._drawn(scores) if self._config.do_sample else self._likeliest(scores)
        ended = [self._ends(candidate) for candidate in candidates]
        # The second half only stands by, to go on where candidates of the first one have ended.
        for candidate, ends in list(zip(candidates, ended, strict=True))[: len(self._states)]:
            if ends:
                self._keep(candidate, scores)
        running = [c for c, ends in zip(candidates, ended, strict=True) if not ends]
        running = sorted(running, key=lambda c: -c.score)[: len(self._states)]
        self.done = not running or not self._worth_going_on(running[0].score)
        return [] if self.done else self._go_on(running, scores)

    # --- candidates ---

    def _likeliest(self, scores: Scores) -> list[Candidate]:
        """The best continuations of all beams, so that enough of them go on, best first."""
        count = self._count
        found: list[Candidate] = []
        for beam in self._live:
            best, tokens = self._continuations(beam, scores)
            if self._config.renormalize_logits:
                best = best - np.float32(log_normaliser(best))
            found += [
                Candidate(self._scores[beam] + score, beam, token)
                for score, token in zip(best[:count].tolist(), tokens[:count].tolist(), strict=True)
                if score > -np.inf
            ]
        return sorted(found, key=lambda c: -c.score)[:count]

    def _drawn(self, scores: Scores) -> list[Candidate]:
        """So many continuations that enough of them go on, drawn one by one by probability.

        The largest log-probabilities with Gumbel noise are a draw without replacement, in order
        (Kool et al., 2019, "Stochastic Beams and Where to Find Them").
        """
        totals, beams, tokens = [], [], []
        for beam in self._live:
            best, kept = self._continuations(beam, scores)
            warped, kept = self._warpers.apply(best[None], kept[None])
            possible = np.flatnonzero(warped[0] > -np.inf)
            if not len(possible):
                continue
            if self._config.renormalize_logits:
                warped = warped - np.float32(log_normaliser(warped[0]))
            totals.append(self._scores[beam] + warped[0, possible].astype(np.float64))
            beams.append(np.full(len(possible), beam))
            tokens.append(kept[0, possible])
        if not totals:
            return []
        total, beam_of, token_of = map(np.concatenate, (totals, beams, tokens))
        # A zero among the numbers is never drawn.
        noise = -np.log(-np.log(self._states[0].random.random(len(total))))
        order = np.argsort(-(total + noise), kind="stable")[: self._count]
        return [Candidate(float(total[i]), int(beam_of[i]), int(token_of[i])) for i in order]

    @property
    def _live(self) -> list[int]:
        """The beams that are followed, best first, so that draws depend on no row."""
        live = [beam for beam, score in enumerate(self._scores) if score > -np.inf]
        return sorted(live, key=lambda beam: -self._scores[beam])

    def _continuations(self, beam: int, scores: Scores) -> tuple[Floats, Ids]:
        """Log-probabilities of a beam's best next tokens as the settings change them."""
        logits = scores.logits.row(beam)
        normaliser = np.float32(log_normaliser(logits))
        return best_tokens(
            scores.candidates[beam] - normaliser,
            scores.ids[beam],
            logits - normaliser,
            self._states[beam],
            scores.logits.native,
        )

    # --- ends ---

    def _ends(self, candidate: Candidate) -> bool:
        state = self._states[candidate.beam]
        return (
            candidate.token in state.eos
            or len(state.history) + 1 == self._max_length
            or (self._stops is not None and self._stops(candidate.beam, candidate.token))
        )

    def _keep(self, candidate: Candidate, scores: Scores) -> None:
        """Put an ended text among the best ones, as far as it is one of them."""
        history = self._extended(candidate)
        tokens = history[self._states[0].prompt_length :]
        score = self._penalised(candidate.score, len(tokens))
        logprobs = self._extended_logprobs(candidate, scores)
        self.hypotheses.append(Hypothesis(score, tokens, logprobs))
        self.hypotheses.sort(key=lambda hypothesis: -hypothesis.score)
        del self.hypotheses[len(self._states) :]

    def _worth_going_on(self, best: float) -> bool:
        """Whether running texts, with `best` as their best log-probability, may beat ended ones."""
        config, state = self._config, self._states[0]
        if len(self.hypotheses) < len(self._states):
            return True
        if config.early_stopping is True:
            return False
        length = len(state.history) + 1
        if config.early_stopping == "never" and config.length_penalty > 0:
            length = self._max_length
        reachable = self._penalised(best, length - state.prompt_length)
        return reachable > self.hypotheses[-1].score

    def _penalised(self, score: float, length: int) -> float:
        return score / math.pow(length, self._config.length_penalty)

    # --- beams ---

    def _go_on(self, running: list[Candidate], scores: Scores) -> list[Move]:
        """Make the candidates the beams: one stays with each beam that has any."""
        # A beam for which nothing is left copies the best one, and is not followed.
        spare = len(self._states) - len(running)
        running = running + [running[0]._replace(score=-np.inf)] * spare
        free = sorted(set(range(len(self._states))) - {candidate.beam for candidate in running})
        successors: dict[int, Candidate] = {}
        for candidate in running:
            taken = candidate.beam in successors
            successors[free.pop() if taken else candidate.beam] = candidate
        histories = [self._extended(successors[beam]) for beam in range(len(self._states))]
        logprobs = [
            self._extended_logprobs(successors[beam], scores) for beam in range(len(self._states))
        ]
        moves = [
            Move(candidate.beam, beam, start)
            for beam, candidate in sorted(successors.items())
            if (start := self._shared(candidate.beam, beam)) < len(self._states[beam].history)
        ]
        for state, history in zip(self._states, histories, strict=True):
            state.history = history
        self._logprobs = logprobs
        self._scores = [successors[beam].score for beam in range(len(self._states))]
        return moves

    def _shared(self, one: int, other: int) -> int:
        """How many tokens two beams' texts begin with in common, the prompt's included."""
        differs = np.flatnonzero(self._states[one].history != self._states[other].history)
        return int(differs[0]) if len(differs) else len(self._states[one].history)

    def _extended(self, candidate: Candidate) -> Ids:
        history: NDArray[np.int64] = np.append(
            self._states[candidate.beam].history, candidate.token
        )
        return history

    def _extended_logprobs(self, candidate: Candidate, scores: Scores) -> Logprobs:
        count = self._config.logprobs
        if count is None:
            return []
        beam = candidate.beam
        entry = log_probabilities(scores, beam, candidate.token, count)
        return [*self._logprobs[beam], entry]
