"""The settings of a generation: names and defaults are those of transformers."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from gpt2ja_onnx.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Setting → (lowest, highest, lowest allowed itself?, highest allowed itself?).
_RANGES: dict[str, tuple[float, float, bool, bool]] = {
    "max_new_tokens": (1, math.inf, True, False),
    "min_new_tokens": (0, math.inf, True, False),
    "temperature": (0, math.inf, False, False),
    "top_k": (0, math.inf, True, False),
    "top_p": (0, 1, False, True),
    "min_p": (0, 1, True, True),
    "typical_p": (0, 1, False, True),
    "repetition_penalty": (0, math.inf, False, False),
    "no_repeat_ngram_size": (0, math.inf, True, False),
    "num_return_sequences": (1, 4096, True, True),
    "num_beams": (1, 4096, True, True),
    "length_penalty": (-50, 50, True, True),  # beyond, powers of a length leave float64
    "logprobs": (0, 64, True, True),
    "seed": (0, 2**64 - 1, True, True),
    "timeout": (0, math.inf, False, False),
}
_INTEGERS = {
    "max_new_tokens", "min_new_tokens", "top_k", "no_repeat_ngram_size", "num_return_sequences",
    "num_beams", "logprobs", "seed",
}  # fmt: skip
_OPTIONAL = {"seed", "logprobs", "timeout"}


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How text is continued; checked once, when it is made.

    Attributes:
        do_sample: Draw tokens; otherwise take the likeliest one.
        max_new_tokens: Tokens to generate at most; the context may end sooner.
        min_new_tokens: Tokens before which the end token cannot be chosen.
        temperature: Divides the scores: below 1 sharper, above 1 flatter.
        top_k: Keep the k likeliest tokens, and those tied with the k-th; 0 keeps all.
        top_p: Keep the likeliest tokens whose probabilities sum to at least top_p (Holtzman et
            al., 2020); 1 keeps all.
        min_p: Keep tokens of at least min_p times the likeliest one's probability; 0 keeps all.
        typical_p: Keep the tokens nearest to the expected information (Meister et al., 2022);
            1 keeps all.
        repetition_penalty: Divides the positive and multiplies the negative scores of tokens
            that stand in the prompt or the text (Keskar et al., 2019); 1 does nothing.
        no_repeat_ngram_size: No sequence of so many tokens occurs twice; 0 allows all.
        bad_words_ids: Token sequences that must not occur.
        suppress_tokens: Tokens that must not occur.
        num_return_sequences: Sequences a prompt; with beams, so many of the best ones found.
        num_beams: Texts that a beam search follows at once; 1 searches nothing. With `do_sample`
            the continuations of the beams are drawn, otherwise the likeliest ones are taken.
        length_penalty: Exponent of the length by which a beam's log-probability is divided:
            above 0 favours long texts, below 0 short ones.
        early_stopping: When a beam search ends. True: at `num_beams` ended texts; False: when
            the running beams, at their present length, are worse than these; ``"never"``: when
            they could not get better at any length.
        seed: Seed of the random stream; each sequence has its own, keyed by (seed, its index).
            None draws a seed, which the result reports.
        stop: Strings at which the text ends, right before the string.
        logprobs: Report the log-probability of each chosen token, and of so many best ones;
            None reports none.
        timeout: Seconds after which the request fails; None waits for ever.
    """

    do_sample: bool = False
    max_new_tokens: int = 20
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    num_return_sequences: int = 1
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        for name, bounds in _RANGES.items():
            _check_number(name, getattr(self, name), bounds)
        if not isinstance(self.do_sample, bool):
            raise SettingError(f"do_sample must be True or False, not {self.do_sample!r}")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise SettingError(
                f'early_stopping must be True, False or "never", not {self.early_stopping!r}'
            )
        if self.num_return_sequences > self.num_beams > 1:
            raise SettingError(
                f"num_return_sequences ({self.num_return_sequences}) must not be above num_beams "
                f"({self.num_beams})"
            )
        object.__setattr__(self, "stop", _strings("stop", self.stop))
        object.__setattr__(self, "suppress_tokens", _ids("suppress_tokens", self.suppress_tokens))
        words = _items(self.bad_words_ids)
        if words is None or not all(isinstance(word, list | tuple) for word in words):
            raise SettingError("bad_words_ids must be a list of lists of token ids")
        words = tuple(_ids("bad_words_ids", word) for word in words)
        object.__setattr__(self, "bad_words_ids", words)
        if not all(words):
            raise SettingError("bad_words_ids must not hold an empty list")
        if self.min_new_tokens > self.max_new_tokens:
            raise SettingError(
                f"min_new_tokens ({self.min_new_tokens}) must not be above max_new_tokens "
                f"({self.max_new_tokens})"
            )

    @property
    def min_tokens_to_keep(self) -> int:
        """Tokens that no setting for sampling takes away.

        Two with beams, so that a text can go on beside the one that the end token ends.
        """
        return 1 if self.num_beams == 1 else 2

    def override(self, settings: Mapping[str, Any]) -> GenerationConfig:
        """A copy with `settings` changed.

        Raises:
            TypeError: A name is no setting.
            SettingError: A value is out of its range.
        """
        known = {item.name for item in fields(self)}
        if unknown := [name for name in settings if name not in known]:
            raise TypeError(f"unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
        return replace(self, **settings)


def _check_number(name: str, value: Any, bounds: tuple[float, float, bool, bool]) -> None:
    low, high, with_low, with_high = bounds
    if value is None and name in _OPTIONAL:
        return
    kind = int if name in _INTEGERS else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind):
        what = "a whole number" if name in _INTEGERS else "a number"
        raise SettingError(f"{name} must be {what}, not {value!r}")
    above = value >= low if with_low else value > low
    below = value <= high if with_high else value < high
    if not (above and below):
        left = f"{'at least' if with_low else 'above'} {low}"
        right = f" and {'at most' if with_high else 'below'} {high}" if high < math.inf else ""
        raise SettingError(f"{name} must be {left}{right}, not {value}")


def _strings(name: str, value: Any) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else _items(value)
    if values is None or not all(isinstance(item, str) and item for item in values):
        raise SettingError(f"{name} must be strings that are not empty, not {value!r}")
    return values


def _ids(name: str, value: Any) -> tuple[int, ...]:
    values = _items(value)
    if values is None or not all(_is_id(item) for item in values):
        raise SettingError(f"{name} must be token ids, not {value!r}")
    return tuple(int(item) for item in values)


def _is_id(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**31


def _items(value: Any) -> tuple[Any, ...] | None:
    """The items of a list or a tuple; none for None; None for anything else."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else None
