"""How a tokenizer changes a text before its sentencepiece model reads it."""

from __future__ import annotations

import itertools
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpt2ja_onnx.bundle.manifest import TokenizerRules

    Characters = Iterable[tuple[str, int]]  # a character, and the place that it comes from

_QUOTES = re.compile("``|''|.", re.DOTALL)


def rewrite(text: str, rules: TokenizerRules) -> tuple[str, list[int]]:
    """`text` as `rules` change it.

    Returns:
        The new text, and for each of its characters, and for its end, where that begins in `text`.
    """
    characters: Characters = zip(text, itertools.count())
    if rules.remove_space:
        characters = _remove_space(text)
    if rules.replace_quotes:
        characters = _replace_quotes(characters)
    if not rules.keep_accents:
        characters = _remove_accents(characters)
    if rules.do_lower_case:
        characters = ((new, place) for old, place in characters for new in old.lower())
    found = list(characters)
    return "".join(character for character, _ in found), [*(place for _, place in found), len(text)]


def _remove_space(text: str) -> Characters:
    end = 0
    for word in re.finditer(r"\S+", text):
        if end:
            yield " ", end
        yield from zip(word.group(), itertools.count(word.start()))
        end = word.end()


def _replace_quotes(characters: Characters) -> Characters:
    found = list(characters)
    for match in _QUOTES.finditer("".join(character for character, _ in found)):
        quotes = len(match.group()) > 1
        yield '"' if quotes else match.group(), found[match.start()][1]


def _remove_accents(characters: Characters) -> Characters:
    for character, place in characters:
        for part in unicodedata.normalize("NFKD", character):
            if not unicodedata.combining(part):
                yield part, place
