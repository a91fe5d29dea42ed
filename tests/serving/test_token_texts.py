"""Tokens beside their texts: whatever they spell, they join to the text, streamed or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2ja_onnx import TokenLogprobs
from gpt2ja_onnx.text.stream import TextStream
from gpt2ja_serve.api.answers import Logprobs
from gpt2ja_serve.api.token_texts import TokenTexts, texts_of_ids

if TYPE_CHECKING:
    from gpt2ja_onnx.text.tokenizer import Tokenizer

_WORDS = ("a", "b", "ab", " ", "字", "字ab", "。")
_END = 99  # a special token


class Spelling:
    """Tokens below 50 are words, from 1000 on bytes, and one is special."""

    def token_text(self, token: int) -> str | bytes:
        if token == _END:
            return ""
        return bytes([token - 1000]) if token >= 1000 else _WORDS[token]

    def piece(self, token: int) -> str:
        return "</s>" if token == _END else f"<0x{token - 1000:02X}>"


SPELLING = cast("Tokenizer", Spelling())
CHARACTER = [1000 + byte for byte in "漢".encode()]
ids = st.lists(
    st.one_of(
        st.integers(0, len(_WORDS) - 1).map(lambda token: [token]),
        st.just(CHARACTER),
        st.integers(1, 2).map(lambda cut: CHARACTER[:cut]),
        st.just([1255]),
        st.just([_END]),
    ),
    max_size=12,
).map(lambda parts: [token for part in parts for token in part])
stops = st.lists(st.sampled_from(["ab", "字a", "。", "漢a", "ba", "a字a"]), max_size=2)


def entry(token: int) -> TokenLogprobs:
    return TokenLogprobs(-float(token), [(token, -float(token)), (0, -0.5)])


@given(ids, stops, st.integers(0, 5))
@settings(max_examples=500, deadline=None)
def test_tokens_join_to_the_text(tokens: list[int], stop: list[str], offset: int) -> None:
    engine = TextStream(SPELLING, tuple(stop))
    streamed, streaming = Logprobs(), TokenTexts(SPELLING, offset)
    used: list[int] = []
    for place, token in enumerate(tokens):
        text = engine.push(token)
        used.append(token)
        last = engine.stopped or place == len(tokens) - 1
        if last:
            text += engine.finish()
        streaming.push(token, entry(token))
        streamed.extend(streaming.release(text, last=last))
        if last:
            break
    whole = TokenTexts(SPELLING, offset)
    for token in used:
        whole.push(token, entry(token))
    at_once = whole.release(engine.text, last=True)
    assert "".join(at_once.tokens) == engine.text
    assert streamed == at_once
    position = offset
    for start, text in zip(at_once.text_offset, at_once.tokens, strict=True):
        assert start == position
        position += len(text)
    if not engine.stopped:
        assert [-(value or 0.0) for value in at_once.token_logprobs] == [
            min(float(token), 9999.0) for token in used
        ]


@given(ids)
@settings(max_examples=200, deadline=None)
def test_texts_of_ids_join_to_the_text_of_all(tokens: list[int]) -> None:
    from gpt2ja_onnx.text.stream import whole_text

    texts = texts_of_ids(SPELLING, tokens)
    assert len(texts) == len(tokens)
    assert "".join(texts) == whole_text(SPELLING, tokens)


def test_names_of_what_has_no_text() -> None:
    texts = TokenTexts(SPELLING, 0)
    for token in (*CHARACTER, _END):
        texts.push(token, entry(token))
    found = texts.release("漢", last=True)
    assert found.tokens == ["", "", "漢", ""]
    assert found.text_offset == [0, 0, 0, 1]
    names = [next(iter(top or ())) for top in found.top_logprobs]
    assert names == ["<0xE6>", "<0xBC>", "<0xA2>", "</s>"]


def test_of_tokens_that_print_alike_the_likelier_counts() -> None:
    texts = TokenTexts(SPELLING, 0)
    texts.push(0, TokenLogprobs(-3.0, [(0, -1.0), (0, -2.0), (1, -float("inf"))]))
    found = texts.release("a", last=True)
    assert found.top_logprobs == [{"a": -1.0, "b": -9999.0}]
    assert found.token_logprobs == [-3.0]
