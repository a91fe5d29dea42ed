"""Tokenizing, decoding and stop strings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gpt2ja_onnx.text.stream import TextStream
from gpt2ja_onnx.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer(tokenizer_dir / "spiece.model")


TEXTS = ["朝の市場には、", "Hello 世界 😀", " 　空白  ", "改\n行\tと\0", "未知の漢字: 鬱龘", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_are_those_of_transformers(
    tokenizer: Tokenizer, tokenizer_dir: Path, text: str
) -> None:
    theirs = AutoTokenizer.from_pretrained(tokenizer_dir)
    ids = tokenizer.encode(text)
    assert ids == theirs.encode(text)
    assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_lone_surrogates_are_unknown_characters(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("朝\ud800") == tokenizer.encode("朝?")


class Letters:
    """A tokenizer whose token n is the n-th letter, and 100 + n the byte n."""

    def piece_text(self, ids: list[int]) -> str:
        raw = bytes(i - 100 for i in ids if i >= 100)
        return raw.decode("utf-8", "replace") + "".join(chr(97 + i) for i in ids if i < 100)

    def token_text(self, token: int) -> str | None:
        return None if token >= 100 else chr(97 + token)


def pushed(text: str, stop: tuple[str, ...]) -> tuple[list[str], TextStream]:
    stream = TextStream(Letters(), stop)  # type: ignore[arg-type]
    chunks = [stream.push(ord(letter) - 97) for letter in text]
    return [*chunks, stream.finish()], stream


@settings(deadline=None)
@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_chunks_join_to_the_text_before_the_first_stop(text: str, stop: tuple[str, ...]) -> None:
    chunks, stream = pushed(text, stop)
    # The stream ends at the first position where any stop string is complete.
    ends = [text.find(s) + len(s) for s in stop if s in text]
    cut = text[: min(ends)] if ends else text
    expected = cut[: min(cut.find(s) for s in stop if s in cut)] if ends else text
    assert "".join(chunks) == stream.text == expected
    assert stream.stopped == bool(ends)


@pytest.mark.parametrize(
    ("text", "stop", "chunks"),
    [
        ("xay", ("ab",), ["x", "", "ay", ""]),  # held only while it may become a stop string
        ("xa", ("ab",), ["x", "", "a"]),
        ("xabz", ("ab",), ["x", "", "", "", ""]),
        ("xyz", (), ["x", "y", "z", ""]),
        ("aab", ("ab",), ["", "a", "", ""]),
    ],
)
def test_nothing_is_held_longer_than_needed(
    text: str, stop: tuple[str, ...], chunks: list[str]
) -> None:
    assert pushed(text, stop)[0] == chunks


def test_bytes_are_held_until_their_character_is_whole() -> None:
    stream = TextStream(Letters())  # type: ignore[arg-type]
    spelled = [100 + byte for byte in "あ".encode()]
    assert [stream.push(token) for token in [*spelled, 1]] == ["", "", "あ", "b"]
    assert [stream.push(spelled[0]), stream.finish()] == ["", "\ufffd"]
