"""Generated ids to text, chunk by chunk: stop strings and incomplete characters are held back."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

_Decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    """Knows what the tokens spell: a tokenizer."""

    def token_text(self, token: int) -> str | bytes:
        """Text of one id, empty for a special token; or bytes of a character, one or more."""
        ...


class TextStream:
    """The text of one sequence while it is generated.

    The chunks that `push` and `finish` return join to exactly `text`. What could still become
    part of a stop string or of a character is held back, and nothing else.

    Args:
        tokenizer: Spells the tokens.
        stop: Strings that end the text, as the tokenizer would normalise them.

    Attributes:
        text: All text released so far.
        stopped: A stop string was reached; the text ends right before it.
    """

    def __init__(self, tokenizer: Detokenizer, stop: tuple[str, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._decoder = _Decoder("replace")  # holds the bytes of an incomplete character
        self._spelling = False  # whether it was given any
        self._held = ""
        self.text = ""
        self.stopped = False

    @property
    def incomplete(self) -> bool:
        """Whether the last token ended inside a character."""
        return bool(self._decoder.getstate()[0])

    def fork(self) -> TextStream:
        """A copy that goes on by itself."""
        copy = TextStream(self._tokenizer, self._stop)
        copy._decoder.setstate(self._decoder.getstate())
        copy._spelling = self._spelling
        copy._held, copy.text, copy.stopped = self._held, self.text, self.stopped
        return copy

    def push(self, token: int) -> str:
        """Take one more token and return the text that is certain now."""
        if self.stopped:
            return ""
        text = self._tokenizer.token_text(token)
        if isinstance(text, bytes):
            text = self._decoder.decode(text)
            self._spelling = True
        elif self._spelling:
            text = self._decoder.decode(b"", final=True) + text
            self._spelling = False
        if not self._stop:
            self.text += text
            return text
        self._held += text
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._release(min(found))
        return self._release(len(self._held) - self._possible_stop())

    def finish(self) -> str:
        """Return what was held back, when no further token comes."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        return self._release(len(self._held))

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max(map(len, self._stop), default=0)
        for length in range(min(longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0

    def _release(self, end: int) -> str:
        chunk, self._held = self._held[:end], self._held[end:]
        self.text += chunk
        return chunk


def whole_text(tokenizer: Detokenizer, ids: Sequence[int]) -> str:
    """Text of `ids` as a continuation of other text: a leading space stays."""
    decoder = _Decoder("replace")
    parts: list[str] = []
    for token in ids:
        text = tokenizer.token_text(token)
        if isinstance(text, bytes):
            parts.append(decoder.decode(text))
        else:
            parts += (decoder.decode(b"", final=True), text)
    return "".join(parts) + decoder.decode(b"", final=True)
