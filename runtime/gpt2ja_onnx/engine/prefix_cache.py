"""Keys and values of prompts' beginnings, kept when their sequences have ended."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpt2ja_onnx.device.base import Ids, RowStore, SavedPositions

# Tokens that are kept and found together.
BLOCK = 32
_ROOT = 0


class _Block(NamedTuple):
    """One block of a prompt; `number` is what the blocks behind it name it by."""

    number: int
    saved: SavedPositions


class PrefixCache:
    """Finds the blocks that a prompt begins with among those of earlier prompts.

    A block is known by its tokens and by the block before it, so that what is found was computed
    from the same tokens, all of them: never from others of the same hash. The least recently used
    block goes first; a block is used whenever one behind it is, so none outlives the one before.

    Args:
        store: The rows that are saved and restored.
        max_bytes: Bytes that blocks may take, at most; 0 keeps none.

    Attributes:
        nbytes: Bytes that blocks take now.
    """

    def __init__(self, store: RowStore, max_bytes: int) -> None:
        self.nbytes = 0
        self._store = store
        self._max_bytes = max_bytes
        self._blocks: OrderedDict[tuple[int, bytes], _Block] = OrderedDict()
        self._numbers = itertools.count(_ROOT + 1)

    def __len__(self) -> int:
        return len(self._blocks)

    def find(self, tokens: Ids) -> int:
        """How many of `tokens`, from the first on, are kept."""
        return BLOCK * sum(1 for _ in self._chain(tokens))

    def restore(self, tokens: Ids, row: int) -> None:
        """Write what is kept of `tokens` to the first positions of a row."""
        chain = list(self._chain(tokens))
        for index, key in enumerate(chain):
            self._store.restore(self._blocks[key].saved, row, index * BLOCK)
        self._use(chain)

    def keep(self, tokens: Ids, row: int) -> None:
        """Keep the whole blocks among `tokens`, which `row` has from its first position on."""
        chain = list(self._chain(tokens))
        number = self._blocks[chain[-1]].number if chain else _ROOT
        own = sum(self._blocks[key].saved.nbytes for key in chain)
        for start in range(len(chain) * BLOCK, len(tokens) - BLOCK + 1, BLOCK):
            saved = self._store.save(row, start, start + BLOCK)
            own += saved.nbytes
            if own > self._max_bytes:
                break
            key = (number, tokens[start : start + BLOCK].tobytes())
            number = next(self._numbers)
            self._blocks[key] = _Block(number, saved)
            self.nbytes += saved.nbytes
            chain.append(key)
        self._use(chain)
        while self.nbytes > self._max_bytes:
            _, block = self._blocks.popitem(last=False)
            self.nbytes -= block.saved.nbytes

    def clear(self) -> None:
        """Let all blocks go."""
        self._blocks.clear()
        self.nbytes = 0

    def _chain(self, tokens: Ids) -> Iterator[tuple[int, bytes]]:
        number = _ROOT
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            key = (number, tokens[start : start + BLOCK].tobytes())
            block = self._blocks.get(key)
            if block is None:
                return
            yield key
            number = block.number

    def _use(self, chain: list[tuple[int, bytes]]) -> None:
        for key in reversed(chain):  # the first block last: the most recently used
            self._blocks.move_to_end(key)
