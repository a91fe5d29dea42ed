"""How many requests of a long list are under way at once: enough, and no more."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from gpt2ja_onnx.errors import Gpt2jaError
from gpt2ja_onnx.request import Request

if TYPE_CHECKING:
    from gpt2ja_onnx.results import GenerationResult

Outcome = list["GenerationResult"] | Gpt2jaError


class Window:
    """Requests that were submitted and not yet awaited, in order, with errors in place.

    Args:
        max_rows: Sequences that run at once.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._items: deque[tuple[Request | Gpt2jaError, int]] = deque()
        self._sequences = 0

    def __bool__(self) -> bool:
        return bool(self._items)

    @property
    def full(self) -> bool:
        """Whether enough wait that a freed row never stays empty."""
        return self._sequences > 4 * self._max_rows or len(self._items) > 16 * self._max_rows

    @property
    def first_done(self) -> bool:
        """Whether the first one need not be waited for."""
        item = self._items[0][0] if self._items else None
        return isinstance(item, Gpt2jaError) or (item is not None and item.done)

    def push(self, item: Request | Gpt2jaError, sequences: int = 0) -> None:
        """Add a request that has so many sequences, or an error in its place."""
        self._items.append((item, sequences))
        self._sequences += sequences

    def first(self) -> Request | Gpt2jaError:
        """The first one; it stays until `pop`, so that `cancel` reaches it."""
        return self._items[0][0]

    def pop(self) -> None:
        """Drop the first one."""
        self._sequences -= self._items.popleft()[1]

    def cancel(self) -> None:
        """Cancel all that is left."""
        for item, _ in self._items:
            if isinstance(item, Request):
                item.cancel()


def outcome(item: Request | Gpt2jaError) -> Outcome:
    """The results of a request, or the error that it ended with."""
    if isinstance(item, Gpt2jaError):
        return item
    try:
        return item.result()
    except Gpt2jaError as error:
        return error


async def aoutcome(item: Request | Gpt2jaError) -> Outcome:
    """`outcome` for asyncio."""
    if isinstance(item, Gpt2jaError):
        return item
    try:
        return await item
    except Gpt2jaError as error:
        return error
