"""The token sequences that spell a word inside a text, so that it can be forbidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpt2ja_onnx.text.tokenizer import Tokenizer

_SPACE = "▁"
# Behind one of these a text goes on as in the middle of a sentence, mostly as a token of its own.
_ANCHORS = ("。", "、", "「", "\n")


def ids_of_words(tokenizer: Tokenizer, words: Iterable[str]) -> list[tuple[int, ...]]:
    """The ids that words have at the start of a text, after a space, and behind other characters.

    Args:
        tokenizer: The bundle's.
        words: None of them empty.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        ids = tokenizer.encode(word)
        if len(ids) > 1 and tokenizer.piece(ids[0]) == _SPACE:
            ids = ids[1:]  # the space is no part of the word
        for variant in (ids, _inside(tokenizer, word)):
            if variant:
                found[tuple(variant)] = None
    return list(found)


def _inside(tokenizer: Tokenizer, word: str) -> list[int]:
    """The ids of a word behind other characters; none where no anchor stays apart from it."""
    for anchor in _ANCHORS:
        start = tokenizer.encode(anchor)
        ids = tokenizer.encode(anchor + word)
        if start and ids[: len(start)] == start:
            return ids[len(start) :]
    return []
