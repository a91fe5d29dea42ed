"""The key-value cache in main memory: rows that grow by need and are given back."""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.device.growing_cache import GrowingCache
from gpt2ja_onnx.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.bundle.manifest import ModelShape
    from gpt2ja_onnx.device.base import Plan, SavedPositions


class Planner(Protocol):
    """Makes the calls over a cache's rows: a session."""

    @property
    def shape(self) -> ModelShape:
        """Sizes of the model."""
        ...

    def plan(
        self, caches: Sequence[NDArray[np.generic]], rows: int, new: int, positions: int
    ) -> Plan:
        """A call whose rows are those of `caches`; see `gpt2ja_onnx.device.base.Cache.plan`."""
        ...

    def decode_plans(self, caches: Sequence[NDArray[np.generic]]) -> DecodePlans:
        """Calls with one token per row over the first rows of `caches`."""
        ...


class DecodePlans(Protocol):
    """Calls with one token for each of the first rows, by how many rows."""

    def __call__(self, rows: int) -> Plan:
        """The call for so many rows."""
        ...


class CpuCache(GrowingCache):
    """Implements `gpt2ja_onnx.device.base.Cache` in main memory.

    The memory is the system's own: pages come as they are written, small ones. numpy would ask for
    huge ones, of which the first positions of all rows take nearly all, and clear what it uses
    again.

    Args:
        planner: The session whose calls read and write it.

    Attributes:
        parts: Keys and values of each layer, one after another, each of shape (rows, heads,
            capacity, the layer's size of `ModelShape.cached_sizes`).
    """

    def __init__(self, planner: Planner) -> None:
        super().__init__(planner.shape)
        self._planner = planner
        self._sizes = [size for size in planner.shape.cached_sizes for _ in names.CACHE_PARTS]
        self._decode_plans: DecodePlans | None = None
        self.parts: list[NDArray[np.generic]] = []
        self.clear()

    @property
    def rows(self) -> int:
        """See `gpt2ja_onnx.device.base.Cache`."""
        return int(self.parts[0].shape[0])

    @property
    def capacity(self) -> int:
        """Positions per row."""
        return int(self.parts[0].shape[2])

    @property
    def nbytes(self) -> int:
        """See `gpt2ja_onnx.device.base.Cache`."""
        return sum(part.nbytes for part in self.parts)

    def bytes_needed(self, rows: int, positions: int) -> int:
        """Bytes for `rows` rows, those included that are there twice while the cache moves."""
        numbers = (sum(self._sizes) + max(self._sizes)) * self._shape.heads
        return rows * self._rounded(positions) * numbers * self._shape.cache_itemsize

    def clear(self) -> None:
        """See `gpt2ja_onnx.device.base.Cache`."""
        self._decode_plans = None
        self.parts = [self._allocate(0, 0, size) for size in self._sizes]

    def copy(self, source: int, target: int, length: int) -> None:
        """See `gpt2ja_onnx.device.base.Cache`."""
        if source != target:
            for part in self.parts:
                part[target, :, :length] = part[source, :, :length]

    def copy_rows(
        self, sources: Sequence[int], targets: Sequence[int], length: int, start: int
    ) -> None:
        """See `gpt2ja_onnx.device.base.Cache`."""
        if sources:
            for part in self.parts:
                part[targets, :, start:length] = part[sources, :, start:length]

    def save(self, row: int, start: int, stop: int) -> NDArray[np.generic]:
        """See `gpt2ja_onnx.device.base.RowStore`; part after part in one line."""
        numbers = (stop - start) * self._shape.heads * sum(self._sizes)
        line = np.empty(numbers, dtype=self._shape.cache_dtype)
        for part, positions in zip(self.parts, self._cut(line), strict=True):
            positions[:] = part[row, :, start:stop]
        return line

    def restore(self, saved: SavedPositions, row: int, start: int) -> None:
        """See `gpt2ja_onnx.device.base.RowStore`."""
        assert isinstance(saved, np.ndarray)
        for part, positions in zip(self.parts, self._cut(saved), strict=True):
            part[row, :, start : start + positions.shape[1]] = positions

    def plan(self, first: int, rows: int, new: int, positions: int) -> Plan:
        """See `gpt2ja_onnx.device.base.Cache`."""
        caches = [part[first : first + rows] for part in self.parts]
        return self._planner.plan(caches, rows, new, positions)

    def decode_plan(self, rows: int) -> Plan:
        """See `gpt2ja_onnx.device.base.Cache`."""
        if self._decode_plans is None:
            self._decode_plans = self._planner.decode_plans(self.parts)
        return self._decode_plans(rows)

    def _resize(self, rows: int, capacity: int, used_rows: int) -> None:
        self._decode_plans = None  # would keep the old memory alive
        if used_rows == 0:
            self.clear()
        kept = min(capacity, self.capacity)
        moved = [self._allocate(rows, capacity, size) for size in self._sizes]
        # Part by part, so that of no more than one of them there are pages twice.
        for index, part in enumerate(self.parts):
            moved[index][:used_rows, :, :kept] = part[:used_rows, :, :kept]
            self.parts[index] = moved[index]

    def _cut(self, line: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
        """The parts of saved positions, each of shape (heads, positions, the part's size)."""
        heads, first = self._shape.heads, 0
        count = len(line) // (heads * sum(self._sizes))
        for size in self._sizes:
            last = first + heads * count * size
            yield line[first:last].reshape(heads, count, size)
            first = last

    def _allocate(self, rows: int, capacity: int, size: int) -> NDArray[np.generic]:
        """Zeros.

        Raises:
            OutOfMemoryError: The system gives no more.
        """
        dimensions = (rows, self._shape.heads, capacity, size)
        nbytes = math.prod(dimensions) * self._shape.cache_itemsize
        if not nbytes:
            return np.zeros(dimensions, dtype=self._shape.cache_dtype)
        try:
            memory = _anonymous(nbytes)
        except OSError as error:
            raise OutOfMemoryError(f"no {nbytes} bytes for the cache: {error}") from error
        return np.frombuffer(memory, dtype=self._shape.cache_dtype).reshape(dimensions)


def _anonymous(nbytes: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, nbytes)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a kernel that has no huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory
