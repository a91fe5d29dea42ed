"""Kinds of settings: what values they take, how a value is checked, and how it is described."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gpt2ja_onnx.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    # A sequence's ids so far, shape (length,), and all its scores, shape (vocabulary,), to scores.
    LogitsProcessor = Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.float32]]

# Above what any model or machine has, and still a C int: sums and arrays of it are safe.
MOST = 2**31 - 1
MOST_ITEMS = 100_000
MOST_CHARACTERS = 100_000  # of a form; one of this size is compiled within a second
LARGEST = 1e30  # of numbers without a bound of their own: fits float32, and products of it float64


class Kind(Protocol):
    """How the values of one setting are checked.

    Attributes:
        accepts: The type that callers may give, as an annotation.
    """

    accepts: str

    def check(self, name: str, value: object) -> Any:
        """The value as it is kept.

        Raises:
            SettingError: It is not one that the setting takes.
        """


class Flag:
    """True or False."""

    accepts = "bool"

    def check(self, name: str, value: object) -> bool:
        """See `Kind`."""
        if not isinstance(value, bool):
            raise SettingError(f"{name} must be True or False, not {_short(value)}")
        return value


class Whole:
    """A whole number in a range, both ends included.

    Attributes:
        low: The smallest one.
        high: The largest one.
        optional: None is allowed.
    """

    def __init__(self, low: int, high: int = MOST, *, optional: bool = False) -> None:
        self.low, self.high, self.optional = low, high, optional
        self.accepts = "int | None" if optional else "int"

    def check(self, name: str, value: object) -> int | None:
        """See `Kind`."""
        if value is None and self.optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise SettingError(f"{name} must be a whole number, not {_short(value)}")
        if not self.low <= value <= self.high:
            end = f" and at most {self.high}" if self.high < MOST or value > self.high else ""
            raise SettingError(f"{name} must be at least {self.low}{end}, not {_short(value)}")
        return value


class Number:
    """A number in a range.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        with_low: The lower end itself is allowed.
        with_high: The upper end itself is allowed.
        optional: None is allowed.
    """

    def __init__(
        self,
        low: float,
        high: float = LARGEST,
        *,
        with_low: bool = True,
        with_high: bool = True,
        optional: bool = False,
    ) -> None:
        self.low, self.high, self.optional = low, high, optional
        self.with_low, self.with_high = with_low, with_high
        self.accepts = "float | None" if optional else "float"

    def check(self, name: str, value: object) -> float | None:
        """See `Kind`."""
        if value is None and self.optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SettingError(f"{name} must be a number, not {_short(value)}")
        above = value >= self.low if self.with_low else value > self.low
        below = value <= self.high if self.with_high else value < self.high
        if not (above and below):
            left = f"{'at least' if self.with_low else 'above'} {self.low:g}"
            right = f" and {'at most' if self.with_high else 'below'} {self.high:g}"
            end = right if self.high < LARGEST or value > self.high else ""
            raise SettingError(f"{name} must be {left}{end}, not {_short(value)}")
        return value


class EarlyStopping:
    """When a beam search ends: True, False or "never"."""

    accepts = 'bool | Literal["never"]'

    def check(self, name: str, value: object) -> bool | Literal["never"]:
        """See `Kind`."""
        if isinstance(value, bool) or value == "never":
            return value
        raise SettingError(f'{name} must be True, False or "never", not {_short(value)}')


class Strings:
    """Strings that are not empty; one may stand without a list."""

    accepts = "str | Sequence[str]"

    def check(self, name: str, value: object) -> tuple[str, ...]:
        """See `Kind`."""
        values = (value,) if isinstance(value, str) else _items(value)
        if values is None or not all(isinstance(item, str) and item for item in values):
            raise SettingError(f"{name} must be strings that are not empty, not {_short(value)}")
        return values


class Choices:
    """Different texts, none of them empty."""

    accepts = "Sequence[str]"

    def check(self, name: str, value: object) -> tuple[str, ...]:
        """See `Kind`."""
        values = _items(value)
        if values is None or not all(isinstance(item, str) and item.strip() for item in values):
            raise SettingError(f"{name} must be a list of texts, not {_short(value)}")
        if sum(map(len, values)) > MOST_CHARACTERS:
            raise SettingError(f"{name} must have at most {MOST_CHARACTERS} characters together")
        return values


class Source:
    """A text in a formal language, or None."""

    accepts = "str | None"

    def check(self, name: str, value: object) -> str | None:
        """See `Kind`."""
        if value is None:
            return None
        if not isinstance(value, str) or not value:
            raise SettingError(f"{name} must be a string that is not empty, not {_short(value)}")
        return _bounded(name, value)


class Schema:
    """A JSON schema, as a mapping or as JSON text, or None; kept as JSON text."""

    accepts = "Mapping[str, Any] | str | None"

    def check(self, name: str, value: object) -> str | None:
        """See `Kind`."""
        if value is None:
            return None
        try:
            schema = json.loads(value) if isinstance(value, str) else value
            if not isinstance(schema, Mapping):
                raise SettingError(f"{name} must be a JSON object, not {_short(value)}")
            return _bounded(name, json.dumps(dict(schema), ensure_ascii=False))
        except RecursionError:
            raise SettingError(f"{name} is nested too deeply") from None
        except (ValueError, TypeError) as error:
            if isinstance(error, SettingError):
                raise
            raise SettingError(f"{name} is no JSON: {error}") from None


class TokenIds:
    """Token ids; one may stand without a list.

    Attributes:
        optional: None is allowed, and is not the same as none.
    """

    def __init__(self, *, optional: bool = False) -> None:
        self.optional = optional
        self.accepts = "int | Sequence[int]" + (" | None" if optional else "")

    def check(self, name: str, value: object) -> tuple[int, ...] | None:
        """See `Kind`."""
        if value is None and self.optional:
            return None
        return _ids(name, (value,) if _is_id(value) else value)


class TokenLists:
    """Lists of token ids, none of them empty."""

    accepts = "Sequence[Sequence[int]]"

    def check(self, name: str, value: object) -> tuple[tuple[int, ...], ...]:
        """See `Kind`."""
        words = _items(value)
        if words is None or not all(isinstance(word, list | tuple) for word in words):
            raise SettingError(f"{name} must be a list of lists of token ids")
        checked = tuple(_ids(name, word) for word in words)
        if not all(checked):
            raise SettingError(f"{name} must not hold an empty list")
        return checked


class TokenBiases:
    """A number for some token ids; ids may be strings, as in JSON.

    Attributes:
        limit: The largest absolute value of a number.
    """

    accepts = "Mapping[int, float] | Mapping[str, float]"

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def check(self, name: str, value: object) -> tuple[tuple[int, float], ...]:
        """See `Kind`."""
        if value is None or value == ():
            return ()
        if isinstance(value, tuple):  # as it is kept
            value = dict(value)
        if not isinstance(value, Mapping) or len(value) > MOST_ITEMS:
            raise SettingError(f"{name} must map token ids to numbers, not {_short(value)}")
        found: dict[int, float] = {}
        for key, bias in value.items():
            token = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else key
            if not _is_id(token):
                raise SettingError(f"{name} must have token ids as keys, not {_short(key)}")
            found[token] = _bias(name, bias, self.limit)
        return tuple(sorted(found.items()))


class SequenceBiases:
    """A number for some token sequences: a mapping of tuples, or pairs of a list and a number."""

    accepts = "Mapping[tuple[int, ...], float] | Sequence[tuple[Sequence[int], float]]"

    def check(self, name: str, value: object) -> tuple[tuple[tuple[int, ...], float], ...]:
        """See `Kind`."""
        pairs = tuple(value.items()) if isinstance(value, Mapping) else _items(value)
        if pairs is None or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
            raise SettingError(f"{name} must map sequences of token ids to numbers")
        checked = {_ids(name, ids): _bias(name, bias, LARGEST) for ids, bias in pairs}
        if () in checked:
            raise SettingError(f"{name} must not hold an empty sequence")
        return tuple(checked.items())


class LengthDecay:
    """Where an exponential penalty starts, counted in new tokens, and its factor."""

    accepts = "tuple[int, float] | None"

    def check(self, name: str, value: object) -> tuple[int, float] | None:
        """See `Kind`."""
        if value is None:
            return None
        parts = _items(value)
        if parts is None or len(parts) != 2:
            raise SettingError(f"{name} must be a start and a factor, not {_short(value)}")
        start = Whole(0).check(f"{name}'s start", parts[0])
        factor = Number(0, 1e3, with_low=False).check(f"{name}'s factor", parts[1])
        assert start is not None
        assert factor is not None
        return start, factor


class Callables:
    """Functions of a user's own."""

    accepts = "Sequence[LogitsProcessor]"

    def check(self, name: str, value: object) -> tuple[Any, ...]:
        """See `Kind`."""
        values = _items(value)
        if values is None or not all(callable(item) for item in values):
            raise SettingError(f"{name} must be a list of callables")
        return values


def _items(value: object) -> tuple[Any, ...] | None:
    """The items of a list or a tuple; none for None; None for anything else."""
    if value is None:
        return ()
    if isinstance(value, list | tuple) and len(value) <= MOST_ITEMS:
        return tuple(value)
    return None


def _bounded(name: str, text: str) -> str:
    if len(text) > MOST_CHARACTERS:
        raise SettingError(f"{name} must have at most {MOST_CHARACTERS} characters")
    return text


def _ids(name: str, value: object) -> tuple[int, ...]:
    values = _items(value)
    if values is None or not all(_is_id(item) for item in values):
        raise SettingError(f"{name} must be token ids, not {_short(value)}")
    return tuple(int(item) for item in values)


def _is_id(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= MOST


def _bias(name: str, value: object, limit: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= limit:
        raise SettingError(
            f"{name} must hold numbers from {-limit:g} to {limit:g}, not {_short(value)}"
        )
    return float(value)


def _short(value: object) -> str:
    """A value for a message: whole, unless it is very long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}…"
