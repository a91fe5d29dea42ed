"""Lines of text from files and pipes: strictly decoded, and none waits for the next one."""

from __future__ import annotations

import codecs
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gpt2ja_onnx.errors import PromptError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 65_536
# What Japanese text is in where it is not UTF-8.
_GUESSES = ("cp932", "euc_jp", "utf_16")
_LEAST_LIKENESS = 0.7


class Line(NamedTuple):
    """A line that is not empty, and its number."""

    number: int
    text: str


def read_lines(source: str, encoding: str = "utf-8") -> Iterator[Line]:
    """Open a file, or stdin for ``-``, and yield its lines; empty ones are skipped.

    It is opened at once; the lines are read as they are asked for.

    Raises:
        PromptError: It cannot be opened, or a line is not text in that encoding.
        SettingError: There is no such encoding.
    """
    try:
        name = codecs.lookup(encoding).name
    except LookupError as error:
        raise SettingError(f"--encoding: there is no encoding {encoding!r}") from error
    return _lines(source, _open(source), name)


def count_lines(source: str) -> int | None:
    """How many lines a file has; None where that cannot be told ahead."""
    if source == "-" or not Path(source).is_file():
        return None
    with Path(source).open("rb") as file:
        return sum(1 for line in file if line.strip())


def _open(source: str) -> int:
    if source == "-":
        return sys.stdin.fileno()
    try:
        return os.open(source, os.O_RDONLY)
    except OSError as error:
        raise PromptError(f"{source}: cannot be read: {error.strerror}") from error


def _lines(source: str, descriptor: int, encoding: str) -> Iterator[Line]:
    name = "stdin" if source == "-" else source
    try:
        for number, raw in enumerate(_raw_lines(name, descriptor, encoding), start=1):
            try:
                text = raw.decode(encoding) if isinstance(raw, bytes) else raw
            except UnicodeDecodeError as error:
                raise PromptError(_undecodable(name, number, raw, encoding)) from error
            text = text.removeprefix("\ufeff") if number == 1 else text
            if text := text.rstrip("\r\n"):
                yield Line(number, text)
    finally:
        if source != "-":
            os.close(descriptor)


def _raw_lines(name: str, descriptor: int, encoding: str) -> Iterator[bytes | str]:
    """Lines as soon as they are whole. A buffered reader would wait, and hold a lock at exit."""
    # In these a line break is not one byte.
    if encoding.startswith(("utf-16", "utf-32")):
        try:
            yield from b"".join(_blocks(name, descriptor)).decode(encoding).splitlines()
        except UnicodeDecodeError as error:
            raise PromptError(f"{name}: is not text in {encoding}") from error
        return
    rest = b""
    for block in _blocks(name, descriptor):
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _blocks(name: str, descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            block = os.read(descriptor, _BLOCK)
        except OSError as error:
            raise PromptError(f"{name}: cannot be read: {error.strerror}") from error
        if not block:
            return
        yield block


def _undecodable(name: str, number: int, raw: bytes | str, encoding: str) -> str:
    assert isinstance(raw, bytes)
    likely = likely_encoding(raw)
    advice = f"it may be {likely}: try --encoding {likely}" if likely else "convert it to UTF-8"
    return f"{name}, line {number}: is not text in {encoding}; {advice}"


def likely_encoding(raw: bytes) -> str | None:
    """What a line that is not UTF-8 may be in; None if it reads as Japanese in nothing."""
    likely = max(_GUESSES, key=lambda guess: _likeness(raw, guess))
    return likely if _likeness(raw, likely) > _LEAST_LIKENESS else None


def _likeness(raw: bytes, encoding: str) -> float:
    """How much of a line reads as Japanese in an encoding: the share of its characters."""
    if encoding == "utf_16" and raw[:2] not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return 0
    try:
        # A line that was cut at a byte 10 may lack half a character.
        text = raw[: len(raw) // 2 * 2 if encoding == "utf_16" else None].decode(encoding)
    except UnicodeDecodeError:
        return 0
    return sum(map(_is_usual, text)) / max(len(text), 1)


def _is_usual(character: str) -> bool:
    """Whether a character is usual in Japanese text; half-width kana are mostly misreadings."""
    return (
        character.isascii()
        or "\u3000" <= character <= "\u30ff"  # punctuation and kana
        or "\u4e00" <= character <= "\u9fff"  # kanji
    )
