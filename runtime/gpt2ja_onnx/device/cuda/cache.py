"""The key-value cache in the memory of a GPU; rows move there without passing through the host."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2ja_onnx.device.cuda.memory import ELEMENT_TYPES, View
from gpt2ja_onnx.device.cuda.step import CudaPlan, Step
from gpt2ja_onnx.device.growing_cache import GRAIN, GrowingCache
from gpt2ja_onnx.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.bundle.manifest import ModelShape
    from gpt2ja_onnx.device.cuda.block_mover import BlockMover
    from gpt2ja_onnx.device.cuda.memory import DeviceMemory
    from gpt2ja_onnx.device.cuda.step import Runner

_WORD = 8
# The kernels that move blocks count words in 32 bits.
_MOST_WORDS = 2**31 - 1


def bucket(rows: int) -> int:
    """The row count, a power of two, whose buffers and captured graph serve `rows` rows."""
    return 1 << (rows - 1).bit_length()


class CudaCache(GrowingCache):
    """Implements `gpt2ja_onnx.device.base.Cache` on the device; its row count is a bucket.

    Args:
        shape: Sizes of the model.
        memory: Where it is.
        mover: Moves blocks of it.
        runner: Runs the steps that read and write it.

    Blocks are what moves: a block is some positions of one head in one row, contiguous in the
    buffer of shape (2 × layers, rows, heads, capacity, head size).

    Attributes:
        storage: The OrtValue that owns the memory; None for no rows.
        steps: Decoding calls that are bound to the buffer, by their row count. They go when the
            buffer does, and the CUDA graphs that hold its addresses with them.
    """

    def __init__(
        self, shape: ModelShape, memory: DeviceMemory, mover: BlockMover, runner: Runner
    ) -> None:
        super().__init__(shape)
        self._memory = memory
        self._mover = mover
        self._runner = runner
        self._positions = math.gcd(GRAIN, shape.context)  # of a block
        self._words = self._positions * shape.head_size * shape.cache_itemsize // _WORD
        self.steps: dict[int, Step] = {}
        self.clear()

    @property
    def rows(self) -> int:
        """See `gpt2ja_onnx.device.base.Cache`."""
        return int(self._blocks.shape[1])

    @property
    def capacity(self) -> int:
        """Positions a row."""
        return int(self._blocks.shape[3]) * self._positions

    @property
    def nbytes(self) -> int:
        """See `gpt2ja_onnx.device.base.Cache`."""
        return int(self._blocks.size) * self._words * _WORD

    def bytes_needed(self, rows: int, positions: int) -> int:
        """See `gpt2ja_onnx.device.base.Cache`; while the memory moves there is more of it."""
        capacity = self._rounded(positions)
        return self._blocks_of(bucket(rows), capacity) * self._words * _WORD

    def clear(self) -> None:
        """See `gpt2ja_onnx.device.base.Cache`."""
        self._release_steps()
        self.storage: Any = None
        self._blocks = self._table(0, 0)

    def copy(self, source: int, target: int, length: int) -> None:
        """See `gpt2ja_onnx.device.base.Cache`."""
        if source != target:
            self.copy_rows([source], [target], length, 0)

    def copy_rows(
        self, sources: Sequence[int], targets: Sequence[int], length: int, start: int
    ) -> None:
        """See `gpt2ja_onnx.device.base.Cache`; whole blocks are copied."""
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

    def plan(self, first: int, rows: int, new: int, positions: int) -> CudaPlan:
        """See `gpt2ja_onnx.device.base.Cache`."""
        return CudaPlan(self._step(first, rows, new, positions), rows)

    def decode_plan(self, rows: int) -> CudaPlan:
        """See `gpt2ja_onnx.device.base.Cache`; the rows are padded to a bucket."""
        padded = bucket(rows)
        if padded not in self.steps:
            self.steps[padded] = self._step(0, padded, 1, 1)
        return CudaPlan(self.steps[padded], rows)

    def _step(self, first: int, rows: int, new: int, positions: int) -> Step:
        views = self.views(first, first + rows)
        return Step(
            self._runner, self._memory, self._shape, views, self.storage, rows, new, positions
        )

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
        self._release_steps()  # they hold the old memory, and logits of their own
        if used_rows == 0:
            self.clear()  # there may be room for the new buffer only without the old one
        blocks = self._table(bucket(rows), capacity)
        words = blocks.size * self._words
        if words > _MOST_WORDS:
            raise OutOfMemoryError(
                f"a cache on the GPU has at most {_MOST_WORDS * _WORD >> 30} GiB, "
                f"{words * _WORD >> 30} GiB are needed"
            )
        buffer = self._memory.empty(words)
        resized = self._view(buffer, blocks.size)
        # Uninitialised memory may hold NaN, and NaN × 0 is NaN.
        zeros = self._memory.upload(np.zeros(self._words, dtype=np.int64))
        everything = blocks.reshape(-1, 1)
        self._mover.move(self._view(zeros, 1), resized, np.zeros_like(everything), everything)
        if used_rows:
            kept = min(blocks.shape[3], self._blocks.shape[3])
            old, new = (table[:, :used_rows, :, :kept] for table in (self._blocks, blocks))
            source = self._view(self.storage, self._blocks.size)
            self._mover.move(source, resized, old.reshape(-1, 1), new.reshape(-1, 1))
        self.storage = buffer
        self._blocks = blocks  # number of each block, (2 × layers, rows, heads, blocks per row)

    def _release_steps(self) -> None:
        for step in self.steps.values():
            step.release()
        self.steps = {}

    def _granted(self, rows: int) -> int:
        return bucket(rows)

    def _blocks_of(self, rows: int, capacity: int) -> int:
        return 2 * self._shape.layers * rows * self._shape.heads * (capacity // self._positions)

    def _table(self, rows: int, capacity: int) -> NDArray[np.int64]:
        shape = (2 * self._shape.layers, rows, self._shape.heads, capacity // self._positions)
        return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)

    def _view(self, value: Any, blocks: int) -> View:
        return View(value.data_ptr(), (blocks, self._words), ELEMENT_TYPES["int64"])
