"""How a cache's memory grows and shrinks, alike on every device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2ja_onnx.bundle.manifest import ModelShape

GRAIN = 64  # capacities are multiples of this, so that growth is rare


class GrowingCache(ABC):
    """The part of `gpt2ja_onnx.device.base.Cache` that decides how much memory there is.

    Args:
        shape: Sizes of the model.
    """

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape

    @property
    @abstractmethod
    def rows(self) -> int:
        """Rows that there is memory for."""

    @property
    @abstractmethod
    def capacity(self) -> int:
        """Positions per row."""

    @abstractmethod
    def bytes_needed(self, rows: int, positions: int) -> int:
        """Bytes that `rows` rows of `positions` positions take, at most."""

    @abstractmethod
    def _resize(self, rows: int, capacity: int, used_rows: int) -> None:
        """Move to memory for `rows` rows; keep the first `used_rows`."""

    def reserve(
        self, rows: int, positions: int, used_rows: int, max_bytes: int | None = None
    ) -> None:
        """See `gpt2ja_onnx.device.base.Cache`."""
        if rows <= self.rows and self._rounded(positions) <= self.capacity:
            return
        wider, longer = max(rows, self.rows), max(positions, self.capacity)
        if max_bytes is None or self.bytes_needed(wider, longer) <= max_bytes:
            rows, positions = wider, longer
        self._resize(rows, self._rounded(positions), used_rows)

    def shrink(self, rows: int, positions: int, used_rows: int) -> None:
        """See `gpt2ja_onnx.device.base.Cache`."""
        rows, capacity = min(rows, self.rows), min(self._rounded(positions), self.capacity)
        if rows and (self._granted(rows), capacity) != (self.rows, self.capacity):
            self._resize(rows, capacity, used_rows)

    def _granted(self, rows: int) -> int:
        """Rows that there are where `rows` are asked for."""
        return rows

    def _rounded(self, positions: int) -> int:
        return min(-(-positions // GRAIN) * GRAIN, self._shape.context)
