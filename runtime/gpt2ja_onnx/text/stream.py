"""Generated ids to text, chunk by chunk: stop strings and incomplete characters are held back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2ja_onnx.text.tokenizer import Tokenizer


class TextStream:
    """The text of one sequence while it is generated.

    The chunks that `push` and `finish` return join to exactly `text`. What could still become
    part of a stop string or of a character is held back, and nothing else.

    Attributes:
        text: All text released so far.
        stopped: A stop string was reached; the text ends right before it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._spelled: list[int] = []  # bytes of a character that is not complete yet
        self._held = ""
        self.text = ""
        self.stopped = False

    def fork(self) -> TextStream:
        """A copy that goes on by itself."""
        copy = TextStream(self._tokenizer, self._stop)
        copy._spelled = [*self._spelled]
        copy._held, copy.text, copy.stopped = self._held, self.text, self.stopped
        return copy

    def push(self, token: int) -> str:
        """Take one more token and return the text that is certain now."""
        if self.stopped:
            return ""
        text = self._tokenizer.token_text(token)
        if text is None:
            self._spelled.append(token)
            text = self._tokenizer.piece_text(self._spelled)
            if "\ufffd" in text and len(self._spelled) < 4:
                return ""
            self._spelled.clear()
        elif self._spelled:
            text = self._tokenizer.piece_text([*self._spelled, token])
            self._spelled.clear()
        self._held += text
        if not self._stop:
            return self._release(len(self._held))
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._release(min(found))
        return self._release(len(self._held) - self._possible_stop())

    def finish(self) -> str:
        """Return what was held back, when no further token comes."""
        if self.stopped:
            return ""
        self._held += self._tokenizer.piece_text(self._spelled)
        self._spelled.clear()
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
