"""Whether a vocabulary can spell what a form demands literally."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Protocol

from gpt2ja_onnx.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable

_CLASS = r"\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]"
# What of a regular expression stands for no literal character, before what does.
_REGEX = re.compile(
    rf"{_CLASS}|\(\?(?:P?<\w+>|[a-zA-Z-]*:|[a-zA-Z-]+\))|\{{\d*,?\d*\}}"
    r"|\\[pP]\{[^}]*\}|\\x\{?[0-9a-fA-F]+\}?|\\[uU]\{?[0-9a-fA-F]+\}?|\\\w"
    r"|\\(?P<escaped>\W)|[.^$*+?{}\[\]()|]|(?P<plain>.)",
    re.DOTALL,
)
_LARK = re.compile(
    r"//[^\n]*|\#[^\n]*"
    r'|"(?P<string>(?:\\.|[^"\\\n])*)"|/(?P<regex>(?:\\.|[^/\\\n])+)/',
)


class Vocabulary(Protocol):
    """What the constraints know of a tokenizer."""

    vocab_size: int

    def token_text(self, token: int) -> str | bytes:
        """Text of one id, empty for a special token; or a byte of a character."""
        ...

    def normalize(self, text: str) -> str:
        """`text` as the tokenizer would read and write it again."""
        ...


class Spelling:
    """What a vocabulary can spell.

    Args:
        vocabulary: The vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._normalize = vocabulary.normalize
        texts = [vocabulary.token_text(token) for token in range(vocabulary.vocab_size)]
        self._pieces = {text for text in texts if isinstance(text, str) and text}
        self._characters = frozenset("".join(self._pieces))
        self._longest = max(map(len, self._pieces), default=0)
        # Byte fallback has all 256 or none.
        self._anything = any(isinstance(text, bytes) for text in texts)

    def check(self, setting: str, characters: Iterable[str]) -> None:
        """Check characters that a form demands.

        Raises:
            SettingError: The vocabulary has no such character.
        """
        if self._anything:
            return
        for character in characters:
            if character not in self._characters:
                written = self._normalize(character)
                instead = ""
                if written != character and set(written) <= self._characters:
                    instead = f", which the tokenizer writes as {written!r}"
                raise SettingError(
                    f"{setting} needs {character!r}{instead}; the vocabulary cannot spell it, so "
                    "take another character"
                )

    def check_text(self, setting: str, text: str) -> None:
        """Check that tokens can be joined to a whole text.

        Raises:
            SettingError: They cannot.
        """
        self.check(setting, text)
        if self._anything:
            return
        reached = [True] + [False] * len(text)
        for end in range(1, len(text) + 1):
            starts = range(max(0, end - self._longest), end)
            reached[end] = any(reached[s] and text[s:end] in self._pieces for s in starts)
        if not reached[-1]:
            raise SettingError(f"{setting}: no tokens of the vocabulary join to {text!r}")


def literals_of_regex(pattern: str) -> str:
    """The characters that stand in a regular expression for themselves, outside of classes."""
    found = (match["escaped"] or match["plain"] or "" for match in _REGEX.finditer(pattern))
    return "".join(found)


def literals_of_grammar(grammar: str) -> str:
    """The characters that the strings and regular expressions of a Lark grammar demand."""
    found: list[str] = []
    for match in _LARK.finditer(grammar):
        if match["string"]:
            try:
                found.append(json.loads(f'"{match["string"]}"'))
            except ValueError:  # an escape of Lark's own
                found.append(re.sub(r"\\.", "", match["string"]))
        elif match["regex"]:
            found.append(literals_of_regex(match["regex"]))
    return "".join(found)


def names_of_schema(schema: object) -> list[str]:
    """The texts that a JSON schema demands: required properties, constants, choices."""
    if isinstance(schema, list):
        return [name for item in schema for name in names_of_schema(item)]
    if not isinstance(schema, dict):
        return []
    found: list[str] = []
    for key, value in schema.items():
        if key in ("required", "enum") and isinstance(value, list):
            found += [text for item in value for text in _texts(item)]
        elif key == "const":
            found += _texts(value)
        elif isinstance(value, dict | list):
            found += names_of_schema(value)
    return found


def multiples_of_schema(schema: object) -> list[int]:
    """What numbers of a JSON schema must be multiples of, as whole numbers of decimal steps."""
    if isinstance(schema, list):
        return [number for item in schema for number in multiples_of_schema(item)]
    if not isinstance(schema, dict):
        return []
    found = [number for value in schema.values() for number in multiples_of_schema(value)]
    number = schema.get("multipleOf")
    if isinstance(number, int | float) and number > 0:
        found.append(int(f"{number:.12f}".rstrip("0").replace(".", "")))
    return found


def normalized_schema(schema: Any, vocabulary: Vocabulary) -> Any:
    """A schema whose names, constants and choices are as the tokenizer writes them."""
    if isinstance(schema, list):
        return [normalized_schema(item, vocabulary) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("required", "enum", "const"):
            found[key] = _normalized(value, vocabulary)
        elif key == "properties" and isinstance(value, dict):
            found[key] = {
                vocabulary.normalize(name): normalized_schema(item, vocabulary)
                for name, item in value.items()
            }
        else:
            found[key] = normalized_schema(value, vocabulary)
    return found


def _texts(value: object) -> list[str]:
    """The strings inside of a JSON value, its keys included."""
    if isinstance(value, dict):
        return [*map(str, value), *(text for item in value.values() for text in _texts(item))]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _normalized(value: Any, vocabulary: Vocabulary) -> Any:
    """A JSON value whose strings are as the tokenizer writes them."""
    if isinstance(value, dict):
        return {
            vocabulary.normalize(key): _normalized(item, vocabulary) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_normalized(item, vocabulary) for item in value]
    return vocabulary.normalize(value) if isinstance(value, str) else value
