"""The key-value cache in the memory of a GPU; rows move there without passing through the host."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.device.cpu.cache import GRAIN, KVCache
from gpt2ja_onnx.device.cuda.memory import ELEMENT_TYPES, View, device_error
from gpt2ja_onnx.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.bundle.manifest import ModelShape
    from gpt2ja_onnx.device.cuda.memory import DeviceMemory
    from gpt2ja_onnx.device.cuda.step import Step
    from gpt2ja_onnx.device.providers import ort

_WORD = 8
# Blocks that one call moves: bounds the copy of them that the kernels keep between.
_MOVED_AT_ONCE = 4096
# The kernels that move blocks count words in 32 bits.
_MOST_WORDS = 2**31 - 1


def bucket(rows: int) -> int:
    """The row count, a power of two, whose buffers and captured graph serve `rows` rows."""
    return 1 << (rows - 1).bit_length()


class CacheRows(NamedTuple):
    """Rows `start` to `stop` of a cache."""

    cache: CudaCache
    start: int
    stop: int


class CudaCache(KVCache):
    """Keys and values on the device, in a buffer whose row count is a bucket.

    Blocks are what moves: a block is some positions of one head in one row, contiguous in the
    buffer of shape (2 × layers, rows, heads, capacity, head size).

    Attributes:
        storage: The OrtValue that owns the memory; None for no rows.
        steps: Decoding calls that are bound to the buffer, by their row count. They go when the
            buffer does, and the CUDA graphs that hold its addresses with them.
    """

    def __init__(self, shape: ModelShape, memory: DeviceMemory, mover: BlockMover) -> None:
        self._memory = memory
        self._mover = mover
        self._positions = math.gcd(GRAIN, shape.context)  # of a block
        self._words = self._positions * shape.head_size * shape.cache_itemsize // _WORD
        self.steps: dict[int, Step] = {}
        super().__init__(shape)

    @property
    def rows(self) -> int:
        """Rows that the buffer has."""
        return int(self._blocks.shape[1])

    @property
    def capacity(self) -> int:
        """Positions a row."""
        return int(self._blocks.shape[3]) * self._positions

    def bytes_needed(self, rows: int, positions: int) -> int:
        """Size in bytes of a buffer for `rows` rows of `positions` positions."""
        return super().bytes_needed(bucket(rows), positions)

    def clear(self) -> None:
        """Give the memory back."""
        self._use(None, self._table(0, 0))

    def copy(self, source: int, target: int, length: int, start: int = 0) -> None:
        """Copy the positions from `start` to `length` of row `source` to row `target`."""
        if source != target:
            self.copy_rows([source], [target], length, start)

    def copy_rows(
        self, sources: Sequence[int], targets: Sequence[int], length: int, start: int = 0
    ) -> None:
        """`copy` for several pairs of rows, as if all at once."""
        moved = self._blocks[..., start // self._positions : -(-length // self._positions)]
        if not sources or not moved.size:
            return
        # The pairs of one block are neighbours, and moved in one call.
        origins, goals = (
            np.moveaxis(moved[:, list(rows)], 1, -1).reshape(-1, len(sources))
            for rows in (sources, targets)
        )
        buffer = self._view(self.storage, self._blocks.size)
        self._mover.move(buffer, buffer, origins, goals)

    def slices(self, start: int, stop: int) -> CacheRows:
        """The rows `start` to `stop` as `CudaSession.plan` takes them."""
        return CacheRows(self, start, stop)

    def views(self, start: int, stop: int) -> list[View]:
        """Keys and values of every layer for some rows, as graphs are bound to them."""
        shape = self._shape
        tensor = (stop - start, shape.heads, self.capacity, shape.head_size)
        row = math.prod(tensor[1:]) * shape.cache_itemsize
        base = self.storage.data_ptr()
        return [
            View(base + (part * self.rows + start) * row, tensor, ELEMENT_TYPES[shape.cache_dtype])
            for part in range(2 * shape.layers)
        ]

    def _resize(self, rows: int, capacity: int, used_rows: int) -> None:
        if used_rows == 0:
            self.clear()  # there may be room for the new buffer only without the old one
        words = self.bytes_needed(rows, capacity) // _WORD
        if words > _MOST_WORDS:
            raise OutOfMemoryError(
                f"a cache on the GPU has at most {_MOST_WORDS * _WORD >> 30} GiB, "
                f"{words * _WORD >> 30} GiB are needed"
            )
        blocks = self._table(bucket(rows), capacity)
        buffer = self._memory.empty(words)
        resized = self._view(buffer, blocks.size)
        # What was never written may be no number, and no number times zero is no number.
        zeros = self._memory.upload(np.zeros(self._words, dtype=np.int64))
        everything = blocks.reshape(-1, 1)
        self._mover.move(self._view(zeros, 1), resized, np.zeros_like(everything), everything)
        if used_rows:
            kept = min(blocks.shape[3], self._blocks.shape[3])
            old, new = (table[:, :used_rows, :, :kept] for table in (self._blocks, blocks))
            source = self._view(self.storage, self._blocks.size)
            self._mover.move(source, resized, old.reshape(-1, 1), new.reshape(-1, 1))
        self._use(buffer, blocks)

    def _use(self, buffer: Any, blocks: NDArray[np.int64]) -> None:
        for step in self.steps.values():
            step.release()
        self.steps = {}
        self.storage = buffer
        self._blocks = blocks  # number of each block, (2 × layers, rows, heads, blocks a row)

    def _table(self, rows: int, capacity: int) -> NDArray[np.int64]:
        shape = (2 * self._shape.layers, rows, self._shape.heads, capacity // self._positions)
        return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)

    def _view(self, value: Any, blocks: int) -> View:
        return View(value.data_ptr(), (blocks, self._words), ELEMENT_TYPES["int64"])


class BlockMover:
    """Copies blocks between buffers on the device, by the graph in the bundle's `CACHE_FILE`."""

    def __init__(self, session: ort.InferenceSession, memory: DeviceMemory) -> None:
        self._session = session
        self._memory = memory

    def move(
        self, source: View, target: View, origins: NDArray[np.int64], goals: NDArray[np.int64]
    ) -> None:
        """Copy blocks `origins` of `source` to the blocks `goals` of `target`.

        Args:
            source: Shape (blocks, words).
            target: Shape (blocks, words); the same memory as `source`, or none of it.
            origins: Shape (groups, pairs). Within a group, all blocks are read before the first
                one is written; blocks of different groups must not overlap.
            goals: Shape (groups, pairs).

        Raises:
            OutOfMemoryError: The device has no room for what is in between.
        """
        groups = max(1, _MOVED_AT_ONCE // origins.shape[1])
        with self._memory.lock:
            for start in range(0, len(origins), groups):
                part = slice(start, start + groups)
                self._move(source, target, origins[part].reshape(-1), goals[part].reshape(-1))

    def _move(
        self, source: View, target: View, origins: NDArray[np.int64], goals: NDArray[np.int64]
    ) -> None:
        memory, count = self._memory, len(origins)
        indices = [memory.upload(origins), memory.upload(goals)]
        moved = np.array([count, source.shape[1]], dtype=np.int64)
        binding = self._session.io_binding()
        memory.bind_input(binding, names.MOVE_SOURCE, source)
        memory.bind_input(binding, names.MOVE_TARGET, target)
        for name, value, shape in zip(
            (names.MOVE_FROM, names.MOVE_TO), indices, ((count,), (count, 1)), strict=True
        ):
            view = View(value.data_ptr(), shape, ELEMENT_TYPES["int64"])
            memory.bind_input(binding, name, view)
        binding.bind_cpu_input(names.MOVE_SHAPE, moved)
        memory.bind_output(binding, names.MOVED, target)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise device_error(error) from error
