"""Log-probabilities beside the texts of their tokens, as OpenAI writes them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from gpt2ja_onnx.text.stream import TextStream
from gpt2ja_serve.api.answers import Logprobs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpt2ja_onnx import Score, TokenLogprobs
    from gpt2ja_onnx.text.tokenizer import Tokenizer

_LOWEST = -9999.0  # JSON has no minus infinity; vLLM's value


class _Token(NamedTuple):
    """A token that waits for its text to be certain."""

    text: str
    token: int
    logprobs: TokenLogprobs


class TokenTexts:
    """Pairs a text's tokens with its characters while it is generated.

    The texts of the tokens that are handed out join to the text that was released. A token inside
    a character has none: the one that completes the character has it. What a stop string cut off
    has no token.

    Args:
        tokenizer: Spells the tokens.
        offset: Where the text begins in the choice's text.
    """

    def __init__(self, tokenizer: Tokenizer, offset: int) -> None:
        self._tokenizer = tokenizer
        self._stream = TextStream(tokenizer)
        self._waiting: deque[_Token] = deque()
        self._offset = offset  # of the next token
        self._end = offset  # of the text that was released

    def push(self, token: int, logprobs: TokenLogprobs) -> None:
        """Take the next token."""
        self._waiting.append(_Token(self._stream.push(token), token, logprobs))

    def release(self, text: str, *, last: bool) -> Logprobs:
        """Hand out the tokens of the text that has become certain.

        Args:
            text: The next characters.
            last: Whether no more follow.
        """
        self._end += len(text)
        if last and self._waiting and (rest := self._stream.finish()):
            final = self._waiting.pop()
            self._waiting.append(final._replace(text=final.text + rest))
        found = Logprobs()
        while self._waiting:
            token, left = self._waiting[0], self._end - self._offset
            if len(token.text) > left:
                if not last:
                    break
                if not left:  # a stop string begins here: what follows is none of the text
                    self._waiting.clear()
                    break
                token = token._replace(text=token.text[:left])
            elif not last and len(self._waiting) == 1 and self._stream.incomplete:
                break
            self._waiting.popleft()
            append(self._tokenizer, found, self._offset, token.text, token.token, token.logprobs)
            self._offset += len(token.text)
        return found


def prompt_logprobs(tokenizer: Tokenizer, score: Score, texts: list[str] | None) -> Logprobs:
    """The log-probabilities of a prompt.

    Args:
        tokenizer: Spells the tokens.
        score: Of the prompt, with its best tokens.
        texts: The part of the prompt that each token stands for; None where ids were given.
    """
    if texts is None:
        texts = texts_of_ids(tokenizer, score.token_ids)
    found = Logprobs()
    offset = 0
    best = score.best or [None] * score.tokens
    for token, text, logprob, likeliest in zip(
        score.token_ids, texts, score.token_logprobs, best, strict=True
    ):
        if logprob is None:
            found.text_offset.append(offset)
            found.token_logprobs.append(None)
            found.tokens.append(text)
            found.top_logprobs.append(None)
        else:
            append(tokenizer, found, offset, text, token, (logprob, likeliest or []))
        offset += len(text)
    return found


def texts_of_ids(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """The text of each token; they join to the text of all."""
    stream = TextStream(tokenizer)
    texts = [stream.push(token) for token in ids]
    if texts:
        texts[-1] += stream.finish()
    return texts


def append(
    tokenizer: Tokenizer,
    found: Logprobs,
    offset: int,
    text: str,
    token: int,
    logprobs: TokenLogprobs | tuple[float, Iterable[tuple[int, float]]],
) -> None:
    """Add one token, and the best ones in its place.

    Two tokens may print alike: the likelier one counts. Whether the token is the likeliest one
    can be told by comparing numbers: the same token has the same one in both places.
    """
    logprob, best = logprobs
    top: dict[str, float] = {}
    for other, value in best:
        top.setdefault(shown(tokenizer, other), max(value, _LOWEST))
    top.setdefault(shown(tokenizer, token), max(logprob, _LOWEST))
    found.text_offset.append(offset)
    found.token_logprobs.append(max(logprob, _LOWEST))
    found.tokens.append(text)
    found.top_logprobs.append(top)


def shown(tokenizer: Tokenizer, token: int) -> str:
    """How a token is named among others: by its text, or by its piece where it has none."""
    text = tokenizer.token_text(token)
    return text if isinstance(text, str) and text else tokenizer.piece(token)
