"""Choosing the next token: transformers' settings in its order and with its tie rules, in numpy.

A step usually sees only the best candidates of each row, which the graph has sorted. They are
enough when no token outside of them can be kept; a row whose settings ask for more is handled on
all of its scores. Both go through the same `change_scores` and `Warpers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.errors import GenerationError
from gpt2ja_onnx.sampling.warpers import Warpers, draw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt2ja_onnx.device.logits import Logits
    from gpt2ja_onnx.sampling.warpers import Floats, Ids
    from gpt2ja_onnx.settings import GenerationConfig


def random_stream(seed: int, sequence_index: int) -> np.random.Generator:
    """The random stream of one sequence: Philox keyed by (seed, sequence index).

    Counter-based (Salmon et al., 2011), so a stream depends on nothing else that is drawn.
    """
    key = np.array([seed, sequence_index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


@dataclass(slots=True, eq=False)
class SamplerState:
    """What the sampler knows of one sequence.

    Attributes:
        config: The settings of its request.
        eos: The end token, or None.
        random: The random stream of the sequence.
        history: Ids of the prompt and of what was generated, shape (length,).
        prompt_length: How many of them are the prompt's.
    """

    config: GenerationConfig
    eos: int | None
    random: np.random.Generator
    history: Ids
    prompt_length: int

    @property
    def edits(self) -> bool:
        """Whether a setting other than `min_new_tokens` changes or bans single tokens."""
        config = self.config
        return (
            config.repetition_penalty != 1.0
            or config.no_repeat_ngram_size > 0
            or bool(config.bad_words_ids)
            or bool(config.suppress_tokens)
        )

    @property
    def must_go_on(self) -> bool:
        """Whether the text is too short yet to end."""
        return len(self.history) - self.prompt_length < self.config.min_new_tokens

    @property
    def kept_at_most(self) -> int:
        """How many tokens can be kept, not counting ties; 0 means all."""
        config = self.config
        if config.do_sample:
            return max(config.top_k, config.min_tokens_to_keep) if config.top_k else 0
        return 1 if config.num_beams == 1 else 2 * config.num_beams


class Sampler:
    """Chooses the tokens of a batch, whose rows are mostly those of the step before."""

    def __init__(self) -> None:
        self._batch = _Batch([], 0)

    def choose(
        self, scores: Floats, ids: Ids, logits: Logits, states: Sequence[SamplerState]
    ) -> list[int | GenerationError]:
        """Choose one token for every row.

        Args:
            scores: Best scores of each row, sorted downwards, shape (rows, candidates).
            ids: Their token ids, shape (rows, candidates).
            logits: All scores, shape (rows, vocabulary); read only for rows that need them.
            states: One a row.

        Returns:
            A token id a row, or the error of a row that has no token left.
        """
        batch = self._batch
        if batch.candidates != scores.shape[1] or batch.states != states:
            batch = self._batch = _Batch(list(states), scores.shape[1])
        complete = scores.shape[1] == logits.shape[1]
        alone: dict[int, int | GenerationError] = {}
        changed = scores
        for row in batch.not_as_they_are(scores, ids, complete=complete):
            best = _best_candidates(scores[row], ids[row], states[row], complete=complete)
            if best is None:
                best = _best_of_all(logits[row], states[row])
                alone[row] = _choose(best[0][None], best[1][None], _Batch([states[row]], 0))[0]
                continue
            if changed is scores:
                changed, ids = scores.copy(), ids.copy()
            changed[row], ids[row] = best
        if not alone:
            return _choose(changed, ids, batch)
        others = [row for row in range(len(states)) if row not in alone]
        if others:
            rest = _Batch([states[row] for row in others], 0)
            alone |= zip(others, _choose(changed[others], ids[others], rest), strict=True)
        return [alone[row] for row in range(len(states))]


class _Batch:
    """What is the same in every step of these rows: a step costs little beside the graph's.

    Args:
        states: One a row.
        candidates: Scores that a row comes with.
    """

    def __init__(self, states: list[SamplerState], candidates: int) -> None:
        self.states = states
        self.candidates = candidates
        self.drawn = [row for row, state in enumerate(states) if state.config.do_sample]
        self.warpers = Warpers([states[row].config for row in self.drawn])
        self._edited = {row for row, state in enumerate(states) if state.edits}
        self._rows = np.arange(len(states))
        kept = np.array([state.kept_at_most for state in states], dtype=np.int64)
        self._bounded = (kept > 0) & (kept < candidates)
        self._edge = np.where(self._bounded, kept - 1, candidates - 1)
        # An id that no token has stands for no end token.
        self._eos = np.array([-1 if s.eos is None else s.eos for s in states])[:, None]

    def not_as_they_are(self, scores: Floats, ids: Ids, *, complete: bool) -> list[int]:
        """Rows whose candidates some setting changes, or may not be enough for."""
        rows = set(self._edited)
        if not complete:
            # What ties with the last candidate may go on outside.
            enough = scores[self._rows, self._edge] > scores[:, -1]
            if not enough.all():
                rows.update(np.flatnonzero(~enough).tolist())
        held = [row for row, state in enumerate(self.states) if state.must_go_on]
        if held:
            ends = (ids == self._eos).any(axis=1)
            rows.update(row for row in held if ends[row])
        return sorted(rows)


def best_tokens(
    scores: Floats, ids: Ids, logits: Floats, state: SamplerState
) -> tuple[Floats, Ids]:
    """The best tokens of one row after the settings that change single tokens' scores.

    Args:
        scores: Best scores, sorted downwards, shape (candidates,).
        ids: Their token ids, shape (candidates,).
        logits: All scores, shape (vocabulary,); read only when the candidates are not enough.
        state: The sequence's settings and history.

    Returns:
        Changed scores and their ids, sorted downwards, equal scores by rising id: at least the
        `state.kept_at_most` best ones and those tied with the last of them.
    """
    complete = len(scores) == len(logits)
    best = _best_candidates(scores, ids, state, complete=complete)
    return _best_of_all(logits, state) if best is None else best


def _best_candidates(
    scores: Floats, ids: Ids, state: SamplerState, *, complete: bool
) -> tuple[Floats, Ids] | None:
    """The candidates after the row's changes; None if a token outside of them could be kept."""
    kept = state.kept_at_most
    if not complete and not 0 < kept < len(scores):
        return None
    lowest = scores[-1]
    if state.edits or state.must_go_on:
        # As long as changes only lower, no token outside can rise above the lowest raw candidate.
        if state.config.repetition_penalty < 1 and not complete:
            return None
        scores = scores.copy()
        change_scores(scores, ids, state)
        order = np.lexsort((ids, -scores))
        scores, ids = scores[order], ids[order]
    if not complete and not scores[kept - 1] > lowest:
        return None
    return scores, ids


def _best_of_all(logits: Floats, state: SamplerState) -> tuple[Floats, Ids]:
    scores = logits.copy()
    every = np.arange(len(scores), dtype=np.int64)
    change_scores(scores, every, state)
    kept = state.kept_at_most
    if 0 < kept < len(scores):
        edge = np.partition(scores, -kept)[-kept]
        every = np.flatnonzero(scores >= edge)
        scores = scores[every]
    order = np.lexsort((every, -scores))
    return scores[order], every[order]


def _choose(scores: Floats, ids: Ids, batch: _Batch) -> list[int | GenerationError]:
    """Choose from scores that are sorted downwards, equal ones by rising id."""
    chosen: list[int | GenerationError] = ids[:, 0].tolist()
    nothing = scores[:, 0] == -np.inf
    if nothing.any():
        scores = np.where(nothing[:, None], np.float32(0), scores)
    drawn = batch.drawn
    if drawn:
        uniform = np.array([batch.states[row].random.random() for row in drawn])
        if len(drawn) < len(chosen):
            drawn_ids = draw(*batch.warpers.apply(scores[drawn], ids[drawn]), uniform)
        else:
            drawn_ids = draw(*batch.warpers.apply(scores, ids), uniform)
        for row, token in zip(drawn, drawn_ids.tolist(), strict=True):
            chosen[row] = token
    for row in np.flatnonzero(nothing).tolist():
        chosen[row] = GenerationError("the settings leave no token that could follow")
    return chosen


def change_scores(scores: Floats, ids: Ids, state: SamplerState) -> None:
    """Apply the settings that change single tokens' scores, in place and in transformers' order.

    Args:
        scores: Raw scores, shape (n,).
        ids: Their token ids, shape (n,).
        state: The sequence's settings and history.
    """
    config, history = state.config, state.history
    if config.repetition_penalty != 1.0:
        seen = np.isin(ids, history)
        penalty = np.float32(config.repetition_penalty)
        held = scores[seen]
        scores[seen] = np.where(held < 0, held * penalty, held / penalty)
    banned = [*_completed_ngrams(history, config.no_repeat_ngram_size)]
    banned += _completed_words(history, config.bad_words_ids, state.eos)
    if state.must_go_on and state.eos is not None:
        banned.append(state.eos)
    banned += config.suppress_tokens
    if banned:
        scores[np.isin(ids, banned)] = -np.inf


def _completed_ngrams(history: Ids, size: int) -> set[int]:
    """Tokens that would repeat an n-gram of the history."""
    if size == 0 or len(history) + 1 < size:
        return set()
    if size == 1:
        return set(history.tolist())
    if len(history) < size:
        return set()
    windows = np.lib.stride_tricks.sliding_window_view(history, size)
    matches = (windows[:, :-1] == history[len(history) - size + 1 :]).all(axis=1)
    return set(windows[matches, -1].tolist())


def _completed_words(
    history: Ids, words: tuple[tuple[int, ...], ...], eos: int | None
) -> list[int]:
    """Tokens that would complete a bad word; the end token alone is never one."""
    return [
        word[-1]
        for word in words
        if word != (eos,)
        and (
            len(word) == 1
            or (
                len(word) <= len(history)
                and tuple(history[len(history) - len(word) + 1 :].tolist()) == word[:-1]
            )
        )
    ]


def log_normaliser(logits: Floats) -> float:
    """The logarithm of the sum of exp(logits), which log-probabilities are less than scores by.

    Args:
        logits: Raw scores, shape (vocabulary,).
    """
    top = logits.max()
    return float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))


def log_probabilities(
    logits: Floats, chosen: int, ids: Ids, count: int
) -> tuple[float, list[tuple[int, float]]]:
    """Log-probability of the chosen token and of the `count` best ones, before any setting.

    Args:
        logits: Raw scores, shape (vocabulary,).
        chosen: A token id.
        ids: Candidates by falling score, shape (candidates,).
        count: How many best tokens to report; at most the number of candidates.
    """
    total = log_normaliser(logits)
    best = [(int(token), float(logits[token]) - total) for token in ids[:count]]
    return float(logits[chosen]) - total, best
