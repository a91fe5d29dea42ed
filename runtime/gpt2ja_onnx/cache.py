"""The key-value cache: rows of one buffer, shared out to sequences and grown by need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2ja_onnx.bundle import ModelShape

_GRAIN = 64  # capacities are multiples of this, so that growth is rare


class KVCache:
    """Keys and values of all layers for `rows` rows of `capacity` positions.

    The buffer is not initialised by a pass over it; pages of memory come as they are written.

    Attributes:
        buffer: Shape (2 × layers, rows, heads, capacity, head size); keys and values of a layer
            follow each other.
    """

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape
        self.buffer = self._allocate(0, 0)

    @property
    def rows(self) -> int:
        """Rows that the buffer has."""
        return int(self.buffer.shape[1])

    @property
    def capacity(self) -> int:
        """Positions a row."""
        return int(self.buffer.shape[3])

    def bytes_needed(self, rows: int, positions: int) -> int:
        """Size in bytes of a buffer for `rows` rows of `positions` positions."""
        shape = self._shape
        size = np.dtype(shape.cache_dtype).itemsize
        return 2 * shape.layers * rows * self._rounded(positions) * shape.width * size

    def reserve(self, rows: int, positions: int, used_rows: int) -> bool:
        """Make room for `rows` rows of `positions` positions; keep the first `used_rows`.

        Returns:
            Whether the buffer moved, so that what was bound to it must be bound again.
        """
        capacity = max(self.capacity, self._rounded(positions))
        if rows <= self.rows and capacity == self.capacity:
            return False
        grown = self._allocate(max(rows, self.rows), capacity)
        grown[:, :used_rows, :, : self.capacity] = self.buffer[:, :used_rows]
        self.buffer = grown
        return True

    def clear(self) -> None:
        """Give the memory back."""
        self.buffer = self._allocate(0, 0)

    def copy(self, source: int, target: int, length: int, start: int = 0) -> None:
        """Copy the positions from `start` to `length` of row `source` to row `target`."""
        if source != target:
            self.buffer[:, target, :, start:length] = self.buffer[:, source, :, start:length]

    def slices(self, start: int, stop: int) -> list[NDArray[np.generic]]:
        """The rows `start` to `stop` of every layer's keys and values, as contiguous arrays."""
        return [layer[start:stop] for layer in self.buffer]

    def _rounded(self, positions: int) -> int:
        return min(-(-positions // _GRAIN) * _GRAIN, self._shape.context)

    def _allocate(self, rows: int, capacity: int) -> NDArray[np.generic]:
        shape = self._shape
        return np.zeros(
            (2 * shape.layers, rows, shape.heads, capacity, shape.head_size),
            dtype=shape.cache_dtype,
        )
