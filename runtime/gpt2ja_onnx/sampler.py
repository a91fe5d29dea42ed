"""Choosing the next token: transformers' settings in its order and with its tie rules, in numpy.

A step usually sees only the best candidates of each row, which the graph has sorted. They are
enough when no token outside of them can be kept; a row whose settings ask for more is handled on
all of its scores. Both go through the same `keep` and `draw`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.errors import GenerationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.config import GenerationConfig
    from gpt2ja_onnx.logits import Logits

    Floats = NDArray[np.float32]
    Ids = NDArray[np.int64]


def random_stream(seed: int, sequence_index: int) -> np.random.Generator:
    """The random stream of one sequence: Philox keyed by (seed, sequence index).

    Counter-based (Salmon et al., 2011), so a stream depends on nothing else that is drawn.
    """
    key = np.array([seed, sequence_index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


@dataclass(slots=True)
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
    def changes_scores(self) -> bool:
        """Whether a setting changes or bans single tokens."""
        config = self.config
        return (
            config.repetition_penalty != 1.0
            or config.no_repeat_ngram_size > 0
            or bool(config.bad_words_ids)
            or bool(config.suppress_tokens)
            or len(self.history) - self.prompt_length < config.min_new_tokens
        )

    @property
    def kept_at_most(self) -> int:
        """How many tokens can be kept, not counting ties; 0 means all."""
        config = self.config
        if config.do_sample:
            return max(config.top_k, config.min_tokens_to_keep) if config.top_k else 0
        return 1 if config.num_beams == 1 else 2 * config.num_beams


def choose(
    scores: Floats, ids: Ids, logits: Logits, states: Sequence[SamplerState]
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
    chosen: list[int | GenerationError] = [0] * len(states)
    together: list[int] = []
    changed = scores
    complete = scores.shape[1] == logits.shape[1]
    for row, state in enumerate(states):
        best = _best_candidates(scores[row], ids[row], state, complete=complete)
        if best is None:
            best = _best_of_all(logits[row], state)
            chosen[row] = _choose_sorted(best[0][None], best[1][None], [state])[0]
            continue
        together.append(row)
        if state.changes_scores:
            if changed is scores:
                changed, ids = scores.copy(), ids.copy()
            changed[row], ids[row] = best
    if together:
        everything = len(together) == len(states)
        rows = slice(None) if everything else np.array(together)
        group = states if everything else [states[row] for row in together]
        for row, token in zip(
            together, _choose_sorted(changed[rows], ids[rows], group), strict=True
        ):
            chosen[row] = token
    return chosen


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
    if state.changes_scores:
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


def _choose_sorted(
    scores: Floats, ids: Ids, states: Sequence[SamplerState]
) -> list[int | GenerationError]:
    """Choose from scores that are sorted downwards, equal ones by rising id."""
    chosen: list[int | GenerationError] = [int(token) for token in ids[:, 0]]
    for row in np.flatnonzero(scores[:, 0] == -np.inf).tolist():
        chosen[row] = GenerationError("the settings leave no token that could follow")
    drawn = [
        row
        for row, state in enumerate(states)
        if state.config.do_sample and not isinstance(chosen[row], GenerationError)
    ]
    if not drawn:
        return chosen
    configs = [states[row].config for row in drawn]
    if len(drawn) < len(states):
        scores, ids = scores[drawn], ids[drawn]
    warped, ids = warp(scores, ids, configs)
    uniform = np.array([states[row].random.random() for row in drawn])
    for row, token in zip(drawn, draw(warped, ids, uniform), strict=True):
        chosen[row] = int(token)
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
    if state.eos is not None and len(history) - state.prompt_length < config.min_new_tokens:
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


def warp(scores: Floats, ids: Ids, configs: Sequence[GenerationConfig]) -> tuple[Floats, Ids]:
    """Temperature, top-k, top-p, min-p and typical-p, in this order.

    Args:
        scores: Sorted downwards, shape (rows, n).
        ids: Their token ids, shape (rows, n).
        configs: Settings, one a row.

    Returns:
        Scores divided by the temperature, those not kept at minus infinity, and their ids: sorted
        downwards, equal scores by falling id, the order that a stable sort gives transformers'
        top-p (torch leaves the order of its own sort open).
    """
    temperature = np.array([c.temperature for c in configs], dtype=np.float32)[:, None]
    if (temperature != 1).any():
        scores = scores / temperature
    keep = np.array([c.min_tokens_to_keep for c in configs])
    always = np.arange(scores.shape[1]) < keep[:, None]
    top_k = np.maximum([c.top_k or scores.shape[1] for c in configs], keep)
    widest = min(int(top_k.max()), scores.shape[1])
    edge = np.take_along_axis(scores, np.minimum(top_k, scores.shape[1])[:, None] - 1, axis=1)
    while widest < scores.shape[1] and (scores[:, widest] >= edge[:, 0]).any():
        widest += 1
    scores, ids, always = scores[:, :widest], ids[:, :widest], always[:, :widest]
    scores = np.where(scores >= edge, scores, np.float32(-np.inf))
    tied = (scores[:, 1:] == scores[:, :-1]) & (scores[:, 1:] != -np.inf)
    if tied.any():
        ids = ids.copy()
        for row in np.flatnonzero(tied.any(axis=1)).tolist():
            order = np.lexsort((-ids[row], -scores[row]))
            scores[row], ids[row] = scores[row, order], ids[row, order]
    top_p = np.array([c.top_p for c in configs])
    if (top_p < 1).any():
        tail = np.cumsum(softmax(scores)[:, ::-1], axis=1, dtype=np.float64)[:, ::-1]
        outside = tail.astype(np.float32) <= (1 - top_p).astype(np.float32)[:, None]
        scores[outside & ~always & (top_p < 1)[:, None]] = -np.inf
    min_p = np.array([c.min_p for c in configs], dtype=np.float32)
    if (min_p > 0).any():
        probabilities = softmax(scores)
        outside = probabilities < min_p[:, None] * probabilities[:, :1]
        scores[outside & ~always] = -np.inf
    for row, config in enumerate(configs):
        if config.typical_p < 1:
            _keep_typical(scores[row], config.typical_p, config.min_tokens_to_keep)
    return scores, ids


def _keep_typical(scores: Floats, mass: float, keep: int) -> None:
    """Keep, in place, the tokens whose information is nearest to its expectation.

    Meister et al., 2022, "Locally Typical Sampling".
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        information = -np.log(softmax(scores[None])[0])
        expected = np.nansum(np.exp(-information) * information)
        distance = np.abs(information - expected)
    order = np.argsort(distance, kind="stable")
    cumulative = np.cumsum(softmax(scores[None, order])[0], dtype=np.float64).astype(np.float32)
    last = min(int((cumulative < np.float32(mass)).sum()), len(scores) - 1)
    outside = distance > distance[order[last]]
    outside[order[:keep]] = False
    scores[outside] = -np.inf


def draw(scores: Floats, ids: Ids, uniform: NDArray[np.float64]) -> Ids:
    """Draw one id a row by inverting the cumulative distribution of softmax(scores).

    Args:
        scores: Shape (rows, n); minus infinity for what is not kept.
        ids: Token ids, shape (rows, n).
        uniform: Numbers in [0, 1), shape (rows,).

    Returns:
        Token ids, shape (rows,).
    """
    cumulative = np.cumsum(softmax(scores), axis=1, dtype=np.float64)
    position = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(axis=1)
    last = scores.shape[1] - 1 - np.argmax(scores[:, ::-1] != -np.inf, axis=1)
    return np.take_along_axis(ids, np.minimum(position, last)[:, None], axis=1)[:, 0]


def softmax(scores: Floats) -> Floats:
    """Softmax along the last axis, in float32."""
    exponentials: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    exponentials /= exponentials.sum(axis=-1, keepdims=True)
    return exponentials


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
