"""How much may wait: a bound on the queue, with a place in it for every request."""

from __future__ import annotations

import threading

from gpt2ja_onnx.errors import ClosedError, QueueFullError


class QueueLimit:
    """Counts the sequences and prompt tokens that wait.

    An empty queue takes any request, so that none is too large for ever.

    Args:
        sequences: Sequences that may wait.
        tokens: Prompt tokens that may wait.
    """

    def __init__(self, sequences: int, tokens: int) -> None:
        self._most = (sequences, tokens)
        self._condition = threading.Condition()
        self._waiting = (0, 0)
        self._closed = False

    @property
    def waiting(self) -> tuple[int, int]:
        """Sequences and prompt tokens that wait now."""
        return self._waiting

    def enter(self, sequences: int, tokens: int, *, wait: bool) -> Permit:
        """Take a place in the queue.

        Args:
            sequences: That the request has.
            tokens: Of its prompt.
            wait: Wait until there is one.

        Raises:
            QueueFullError: There is none, and `wait` is not set.
            ClosedError: The queue was closed.
        """
        with self._condition:
            while not self._closed and not self._has_room(sequences, tokens):
                if not wait:
                    raise QueueFullError(
                        f"the queue is full: {self._waiting[0]} of {self._most[0]} sequences and "
                        f"{self._waiting[1]} of {self._most[1]} prompt tokens wait; try later"
                    )
                self._condition.wait()
            if self._closed:
                raise ClosedError("the model was closed and takes no further requests")
            self._waiting = (self._waiting[0] + sequences, self._waiting[1] + tokens)
        return Permit(self, sequences, tokens)

    def leave(self, sequences: int, tokens: int) -> None:
        """Give places back."""
        with self._condition:
            self._waiting = (self._waiting[0] - sequences, self._waiting[1] - tokens)
            self._condition.notify_all()

    def close(self) -> None:
        """Let nobody in any more, and wake those who wait."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _has_room(self, sequences: int, tokens: int) -> bool:
        if self._waiting == (0, 0):
            return True
        return (
            self._waiting[0] + sequences <= self._most[0]
            and self._waiting[1] + tokens <= self._most[1]
        )


class Permit:
    """One request's place in the queue; given back sequence by sequence."""

    def __init__(self, limit: QueueLimit, sequences: int, tokens: int) -> None:
        self._limit = limit
        self._sequences = sequences
        self._tokens = tokens

    def release(self, sequences: int) -> None:
        """Some sequences do not wait any more; with the last one goes the prompt."""
        left = max(0, self._sequences - sequences)
        released = self._sequences - left
        tokens = 0 if left else self._tokens
        self._sequences, self._tokens = left, self._tokens - tokens
        if released or tokens:
            self._limit.leave(released, tokens)

    def release_all(self) -> None:
        """The request has ended."""
        self.release(self._sequences)
