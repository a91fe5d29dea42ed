"""Settings that change single tokens' scores by a sequence's history, in transformers' order.

A processor sees the scores of some tokens, the graph's candidates or the whole vocabulary, and the
ids that they belong to. To add one, write a class with the methods of `Processor` and put it into
`PROCESSORS`, where it is to act.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

from gpt2ja_onnx.errors import GenerationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpt2ja_onnx.device.base import Floats, Ids
    from gpt2ja_onnx.settings.config import GenerationConfig
    from gpt2ja_onnx.settings.kinds import LogitsProcessor

_NEVER = np.float32(-np.inf)
_FEW = 8  # tokens that are found sooner one by one than as a set
_LARGEST = float(np.finfo(np.float32).max) / 4


class Lengths(NamedTuple):
    """What a processor may know of a sequence, beside its settings.

    Attributes:
        eos: The end tokens.
        prompt: Tokens of the prompt.
        most: Tokens at which the sequence ends, those of the prompt included.
    """

    eos: tuple[int, ...]
    prompt: int
    most: int


class Processor(Protocol):
    """Changes scores by the history of one sequence.

    Attributes:
        lowers_only: Whether no score ever rises. Then the graph's candidates stay enough;
            otherwise a step reads all scores of the row.
        tokens: The only tokens whose scores it ever changes; None for any.
    """

    lowers_only: bool
    tokens: tuple[int, ...] | None

    @classmethod
    def of(cls, config: GenerationConfig, lengths: Lengths) -> Self | None:
        """The processor of a sequence; None if its settings ask for none."""

    def active(self, history: Ids) -> bool:
        """Whether it would change any score in this step."""

    def __call__(self, history: Ids, scores: Floats, ids: Ids) -> None:
        """Change scores in place.

        Args:
            history: The sequence's ids, the prompt's included, shape (length,).
            scores: Scores of `ids`, shape (n,).
            ids: Token ids, shape (n,); all of the vocabulary in its order where a processor may
                raise a score.
        """


class SequenceBias:
    """Adds a number to the score of what would complete a token sequence."""

    def __init__(self, biases: tuple[tuple[tuple[int, ...], float], ...]) -> None:
        self._biases = [(np.array(ids[:-1]), ids[-1], np.float32(bias)) for ids, bias in biases]
        self.lowers_only = all(bias <= 0 for _, bias in biases)
        self.tokens: tuple[int, ...] | None = tuple(ids[-1] for ids, _ in biases)

    @classmethod
    def of(cls, config: GenerationConfig, lengths: Lengths) -> Self | None:
        """See `Processor`."""
        return cls(config.sequence_bias) if config.sequence_bias else None

    def active(self, history: Ids) -> bool:
        """See `Processor`."""
        return any(_ends_with(history, before) for before, _, _ in self._biases)

    def __call__(self, history: Ids, scores: Floats, ids: Ids) -> None:
        """See `Processor`."""
        added = np.zeros_like(scores)
        for before, token, bias in self._biases:
            if _ends_with(history, before):
                added[ids == token] += bias
        scores += added


class LogitBias:
    """Adds a number to the scores of tokens: OpenAI's ``logit_bias``."""

    def __init__(self, biases: tuple[tuple[int, float], ...]) -> None:
        self.tokens: tuple[int, ...] | None = tuple(token for token, _ in biases)
        self._tokens = np.array(self.tokens)
        self._biases = np.array([bias for _, bias in biases], dtype=np.float32)
        self.lowers_only = bool((self._biases <= 0).all())

    @classmethod
    def of(cls, config: GenerationConfig, lengths: Lengths) -> Self | None:
        """See `Processor`."""
        return cls(config.logit_bias) if config.logit_bias else None

    def active(self, history: Ids) -> bool:
        """See `Processor`."""
        return True

    def __call__(self, history: Ids, scores: Floats, ids: Ids) -> None:
        """See `Processor`."""
        places = np.searchsorted(self._tokens, ids)  # the tokens are sorted
        places[places == len(self._tokens)] = 0
        biased = self._tokens[places] == ids
        scores[biased] += self._biases[places[biased]]


class RepetitionPenalty:
    """Divides positive and multiplies negative scores of what was there before.

    Keskar et al., 2019, "CTRL".

    Attributes:
        penalty: What by.
    """

    def __init__(self, penalty: float) -> None:
        self.penalty = np.float32(penalty)
        self.lowers_only = penalty >= 1
        self.tokens: tuple[int, ...] | None = None

    @classmethod
    def of(cls, config: GenerationConfig, lengths: Lengths) -> Self | None:
        """See `Processor`."""
        return cls(config.repetition_penalty) if config.repetition_penalty != 1 else None

    def active(self, history: Ids) -> bool:
        """See `Processor`."""
        return True

    def __call__(self, history: Ids, scores: Floats, ids: Ids) -> None:
        """See `Processor`."""
        seen = np.isin(ids, history)
        held = scores[seen]
        scores[seen] = np.where(held < 0, held * self.penalty, held / self.penalty)


class CountPenalties:
    """Subtracts for tokens that the text holds, once and for each time: OpenAI's definition.

    score − count × frequency_penalty − (count > 0) × presence_penalty; the prompt does not count.

    Attributes:
        presence, frequency: The penalties.
        prompt: Tokens of the prompt.
    """

    def __init__(self, presence: float, frequency: float, prompt: int) -> None:
        self.presence = np.float32(presence)
        self.frequency = np.float32(frequency)
        self.prompt = prompt
        self.lowers_only = presence >= 0 and frequency >= 0
        self.tokens: tuple[int, ...] | None = None

    @classmethod
    def of(cls, config: GenerationConfig, lengths: Lengths) -> Self | None:
        """See `Processor`."""
        presence, frequency = config.presence_penalty, config.frequency_penalty
        return cls(presence, frequency, lengths.prompt) if presence or frequency else None

    def active(self, history: Ids) -> bool:
        """See `Processor`."""
        return len(history) > self.prompt

    def __call__(self, history: Ids, scores: Floats, ids: Ids) -> None:
        """See `Processor`."""
        tokens, counts = np.unique(history[self.prompt :], return_counts=True)
        places = np.searchsorted(tokens, ids)
        places[places == len(tokens)] = 0
        held = tokens[places] == ids
        count = counts[places[held]].astype(np.float32)
        scores[held] -= count * self.frequency + self.presence


class NoRepeatNgrams:
    """Bans what would repeat an n-gram of the history.

    Attributes:
        size: Tokens of an n-gram.
    """

    lowers_only = True
    tokens: tuple[int, ...] | None = None

    def __init__(self, size: int) -> None:
        self.size = size

    @classmethod
    def of(cls, config: GenerationConfig, lengths: Lengths) -> Self | None:
        """See `Processor`."""
        return cls(config.no_repeat_ngram_size) if config.no_repeat_ngram_size else None

    def active(self, history: Ids) -> bool:
        """See `Processor`."""
        return len(history) >= self.size

    def __call__(self, history: Ids, scores: Floats, ids: Ids) -> None:
        """See `Processor`."""
        windows = np.lib.stride_tricks.sliding_window_view(history, self.size)
        last = history[len(history) - self.size + 1 :]
        matches = (windows[:, :-1] == last).all(axis=1)
        _ban(scores, ids, windows[matches, -1])


class NoBadWords:
    """Bans what would complete a bad word; an end token alone is never one."""

    lowers_only = True

    def __init__(self, words: list[tuple[int, ...]]) -> None:
        self._words = [(np.array(word[:-1]), word[-1]) for word in words]
        self.tokens: tuple[int, ...] | None = tuple(word[-1] for word in words)

    @classmethod
    def of(cls, config: GenerationConfig, lengths: Lengths) -> Self | None:
        """See `Processor`."""
        ends = {(token,) for token in lengths.eos}
        words = [word for word in config.bad_words_ids if word not in ends]
        return cls(words) if words else None

    def active(self, history: Ids) -> bool:
        """See `Processor`."""
        return any(_ends_with(history, before) for before, _ in self._words)

    def __call__(self, history: Ids, scores: Floats, ids: Ids) -> None:
        """See `Processor`."""
        _ban(scores, ids, [end for before, end in self._words if _ends_with(history, before)])


class MinNewTokens:
    """Bans the end tokens of a text that is too short."""

    lowers_only = True

    def __init__(self, shortest: int, eos: tuple[int, ...]) -> None:
        self._shortest = shortest
        self._eos = np.array(eos)
        self.tokens: tuple[int, ...] | None = eos

    @classmethod
    def of(cls, config: GenerationConfig, lengths: Lengths) -> Self | None:
        """See `Processor`."""
        if not config.min_new_tokens or not lengths.eos:
            return None
        return cls(lengths.prompt + config.min_new_tokens, lengths.eos)

    def active(self, history: Ids) -> bool:
        """See `Processor`."""
        return len(history) < self._shortest

    def __call__(self, history: Ids, scores: Floats, ids: Ids) -> None:
        """See `Processor`."""
        _ban(scores, ids, self._eos)


class ForcedEnd:
    """Leaves nothing but some tokens for the last place of a text."""

    lowers_only = False
    tokens: tuple[int, ...] | None = None

    def __init__(self, tokens: tuple[int, ...], most: int) -> None:
        self._tokens = np.array(tokens)
        self._most = most

    @classmethod
    def of(cls, config: GenerationConfig, lengths: Lengths) -> Self | None:
        """See `Processor`."""
        tokens = config.forced_eos_token_id
        return cls(tokens, lengths.most) if tokens else None

    def active(self, history: Ids) -> bool:
        """See `Processor`."""
        return len(history) == self._most - 1

    def __call__(self, history: Ids, scores: Floats, ids: Ids) -> None:
        """See `Processor`."""
        scores[:] = np.where(np.isin(ids, self._tokens), np.float32(0), _NEVER)


class LengthDecay:
    """Raises the end tokens' scores by |score| × (factor^n − 1), n tokens after a start.

    Source: ``ExponentialDecayLengthPenalty`` of transformers.
    """

    lowers_only = False

    def __init__(self, start: int, factor: float, eos: tuple[int, ...]) -> None:
        self._start = start
        self._factor = factor
        self._eos = np.array(eos)
        self.tokens: tuple[int, ...] | None = eos

    @classmethod
    def of(cls, config: GenerationConfig, lengths: Lengths) -> Self | None:
        """See `Processor`."""
        decay = config.exponential_decay_length_penalty
        if decay is None or not lengths.eos:
            return None
        return cls(lengths.prompt + decay[0], decay[1], lengths.eos)

    def active(self, history: Ids) -> bool:
        """See `Processor`."""
        return len(history) > self._start

    def __call__(self, history: Ids, scores: Floats, ids: Ids) -> None:
        """See `Processor`."""
        ends = np.isin(ids, self._eos) & (scores > _NEVER)
        growth = float(np.float64(self._factor) ** (len(history) - self._start)) - 1
        held = scores[ends]
        raised = held + np.abs(held) * np.float32(min(growth, _LARGEST))
        scores[ends] = np.minimum(raised, _LARGEST)  # infinity would leave no probability


class SuppressTokens:
    """Bans tokens."""

    lowers_only = True

    def __init__(self, tokens: tuple[int, ...]) -> None:
        self.tokens: tuple[int, ...] | None = tokens
        self._tokens = np.array(tokens)

    @classmethod
    def of(cls, config: GenerationConfig, lengths: Lengths) -> Self | None:
        """See `Processor`."""
        return cls(config.suppress_tokens) if config.suppress_tokens else None

    def active(self, history: Ids) -> bool:
        """See `Processor`."""
        return True

    def __call__(self, history: Ids, scores: Floats, ids: Ids) -> None:
        """See `Processor`."""
        _ban(scores, ids, self._tokens)


class UserProcessors:
    """The user's own functions, one after another."""

    lowers_only = False
    tokens: tuple[int, ...] | None = None

    def __init__(self, functions: tuple[LogitsProcessor, ...]) -> None:
        self._functions = functions

    @classmethod
    def of(cls, config: GenerationConfig, lengths: Lengths) -> Self | None:
        """See `Processor`."""
        return cls(config.logits_processors) if config.logits_processors else None

    def active(self, history: Ids) -> bool:
        """See `Processor`."""
        return True

    def __call__(self, history: Ids, scores: Floats, ids: Ids) -> None:
        """See `Processor`; what a function raises or gives that is no scores is an error."""
        for function in self._functions:
            name = getattr(function, "__name__", type(function).__name__)
            try:
                found = np.asarray(function(history.copy(), scores.copy()), dtype=np.float32)
            except Exception as error:
                reason = str(error) or type(error).__name__
                raise GenerationError(f"the logits processor {name} failed: {reason}") from error
            if found.shape != scores.shape or not (found < np.inf).all():
                raise GenerationError(
                    f"the logits processor {name} must return {scores.shape} scores below "
                    f"infinity, not {_description(found)}"
                )
            scores[:] = found


# In the order in which they act: that of transformers, with OpenAI's beside their likes.
PROCESSORS: list[type[Processor]] = [
    SequenceBias,
    LogitBias,
    RepetitionPenalty,
    CountPenalties,
    NoRepeatNgrams,
    NoBadWords,
    MinNewTokens,
    ForcedEnd,
    LengthDecay,
    SuppressTokens,
    UserProcessors,
]


def make_processors(
    config: GenerationConfig, eos: tuple[int, ...], prompt_length: int, max_length: int
) -> list[Processor]:
    """The processors of one sequence, in the order in which they act."""
    lengths = Lengths(eos, prompt_length, max_length)
    made = [kind.of(config, lengths) for kind in PROCESSORS]
    return [processor for processor in made if processor is not None]


def watched_tokens(processors: Iterable[Processor]) -> tuple[int, ...] | None:
    """The only tokens whose scores some processors may lower; None for any, or if one raises."""
    tokens: set[int] = set()
    for processor in processors:
        if processor.tokens is None or not processor.lowers_only:
            return None
        tokens.update(processor.tokens)
    return tuple(tokens)


def _ends_with(history: Ids, ids: Ids) -> bool:
    count = len(ids)
    return count < len(history) and bool((history[len(history) - count :] == ids).all())


def _ban(scores: Floats, ids: Ids, tokens: Ids | list[int]) -> None:
    if len(tokens) > _FEW:
        scores[np.isin(ids, tokens)] = _NEVER
    else:
        for token in tokens:
            scores[ids == token] = _NEVER


def _description(found: Floats) -> str:
    return "NaN or infinity" if found.ndim == 1 else f"an array of shape {found.shape}"
