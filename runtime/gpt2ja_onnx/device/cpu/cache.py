"""The key-value cache: rows of one buffer, shared out to sequences and grown by need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.bundle.manifest import ModelShape

GRAIN = 64  # capacities are multiples of this, so that growth is rare


class KVCache:
    """Keys and values of all layers for `rows` rows of `capacity` positions, in main memory.

    The buffer is not initialised by a pass over it; pages of memory come as they are written.

    Attributes:
        buffer: Shape (2 × layers, rows, heads, capacity, head size); keys and values of a layer
            follow each other.
    """

    buffer: NDArray[np.generic]

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape
        self.clear()

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
        position = 2 * shape.layers * shape.width * shape.cache_itemsize
        return rows * self._rounded(positions) * position

    def reserve(
        self, rows: int, positions: int, used_rows: int, max_bytes: int | None = None
    ) -> bool:
        """Make room for `rows` rows of `positions` positions; keep the first `used_rows`.

        Args:
            rows: Rows that are needed.
            positions: Positions a row that are needed, by the rows that are kept too.
            used_rows: Rows to keep.
            max_bytes: Give back rows and positions that are no longer needed before the buffer
                grows beyond this; None keeps what it has.

        Returns:
            Whether the buffer moved, so that what was bound to it must be bound again.

        Raises:
            OutOfMemoryError: The device has no room for it; the cache is as it was, or empty if
                no row was used.
        """
        if rows <= self.rows and self._rounded(positions) <= self.capacity:
            return False
        wider, longer = max(rows, self.rows), max(positions, self.capacity)
        if max_bytes is None or self.bytes_needed(wider, longer) <= max_bytes:
            rows, positions = wider, longer
        self._resize(rows, self._rounded(positions), used_rows)
        return True

    def clear(self) -> None:
        """Give the memory back."""
        self.buffer = self._allocate(0, 0)

    def copy(self, source: int, target: int, length: int, start: int = 0) -> None:
        """Copy the positions from `start` to `length` of row `source` to row `target`.

        Before `start` the two rows must be alike: a device copies whole blocks of positions.
        """
        if source != target:
            self.buffer[:, target, :, start:length] = self.buffer[:, source, :, start:length]

    def copy_rows(
        self, sources: Sequence[int], targets: Sequence[int], length: int, start: int = 0
    ) -> None:
        """`copy` for several pairs of rows, as if all at once.

        Every source is read before a target is written, so rows may change places.

        Args:
            sources: Rows to read; one may occur several times.
            targets: Rows to write, one for each source; each may occur once.
            length: Positions, of the longest row.
            start: Where the first pair begins to differ.
        """
        if sources:
            moved = self.buffer[:, sources, :, start:length]
            self.buffer[:, targets, :, start:length] = moved

    def slices(self, start: int, stop: int) -> Any:
        """The rows `start` to `stop` as `gpt2ja_onnx.device.cpu.session.Session.plan` takes them.

        Here every layer's keys and values, as contiguous arrays of the buffer.
        """
        return [layer[start:stop] for layer in self.buffer]

    def _resize(self, rows: int, capacity: int, used_rows: int) -> None:
        resized = self._allocate(rows, capacity)
        kept = min(capacity, self.capacity)
        resized[:, :used_rows, :, :kept] = self.buffer[:, :used_rows, :, :kept]
        self.buffer = resized

    def _rounded(self, positions: int) -> int:
        return min(-(-positions // GRAIN) * GRAIN, self._shape.context)

    def _allocate(self, rows: int, capacity: int) -> NDArray[np.generic]:
        shape = self._shape
        return np.zeros(
            (2 * shape.layers, rows, shape.heads, capacity, shape.head_size),
            dtype=shape.cache_dtype,
        )
