"""Tokenizing, decoding and stop strings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gpt2ja_onnx.bundle.demo import demo_bundle
from gpt2ja_onnx.text.stream import TextStream, whole_text
from gpt2ja_onnx.text.tokenizer import Tokenizer
from tests.fakes import Letters

if TYPE_CHECKING:
    from pathlib import Path

DEMO = Tokenizer(demo_bundle() / "spiece.model")


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


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_the_parts_of_a_text_join_to_it(text: str) -> None:
    ids, parts = DEMO.encode_with_texts(text)
    assert ids == DEMO.encode(text)
    assert len(parts) == len(ids)
    if ids:
        assert "".join(parts) == text.encode("utf-8", errors="replace").decode()


def test_a_part_is_what_a_token_stands_for() -> None:
    ids, parts = DEMO.encode_with_texts(" 近年の①　😀世界")
    pieces = [DEMO.piece(token) for token in ids]
    assert parts[pieces.index("1")] == "①"
    assert parts[pieces.index("<unk>")] == "😀"


def test_lone_surrogates_are_unknown_characters(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("朝\ud800") == tokenizer.encode("朝?")


def pushed(text: str, stop: tuple[str, ...]) -> tuple[list[str], TextStream]:
    stream = TextStream(Letters(), stop)
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
    stream = TextStream(Letters())
    spelled = [100 + byte for byte in "あ".encode()]
    assert [stream.push(token) for token in [*spelled, 1]] == ["", "", "あ", "b"]
    assert [stream.push(spelled[0]), stream.finish()] == ["", "\ufffd"]


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(0, 25), st.integers(100, 355)), max_size=20), st.booleans())
def test_any_bytes_stream_to_what_they_decode_to_whole(ids: list[int], forks: bool) -> None:
    stream = TextStream(Letters())
    chunks = [stream.push(token) for token in ids]
    if forks:
        stream = stream.fork()
    chunks.append(stream.finish())
    assert "".join(chunks) == whole_text(Letters(), ids)
    raw = b"".join(
        text if isinstance(text, bytes) else text.encode()
        for text in map(Letters().token_text, ids)
    )
    assert "".join(chunks) == raw.decode("utf-8", errors="replace")


def test_a_broken_byte_swallows_nothing_behind_it() -> None:
    stream = TextStream(Letters())
    ids = [100 + byte for byte in b"\xe3" + "😀".encode()]
    text = "".join(stream.push(token) for token in ids) + stream.finish()
    assert text == "\ufffd😀"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("）", ")"),
        ("ＡＢＣ", "ABC"),
        ("ｶﾞ", "ガ"),
        ("。", "。"),
        (" 。", " 。"),
        ("　", " "),
        ("\n", " "),
    ],
)
def test_stop_strings_are_normalised_as_texts_are(
    tokenizer: Tokenizer, text: str, normal: str
) -> None:
    assert tokenizer.normalize(text) == normal


def test_a_special_token_in_a_text_is_spelled_out(
    tokenizer: Tokenizer, tokenizer_dir: Path
) -> None:
    """Where transformers' slow tokenizer reads a control token: text never controls the model."""
    text = "朝の</s>市場"
    assert 3 not in tokenizer.encode(text)
    assert 3 in AutoTokenizer.from_pretrained(tokenizer_dir).encode(text)
