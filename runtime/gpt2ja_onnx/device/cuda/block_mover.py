"""Copies blocks of the cache on the device, by the graph in the bundle's `CACHE_FILE`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.device.cuda.memory import ELEMENT_TYPES, View, device_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2ja_onnx.device.cuda.memory import DeviceMemory
    from gpt2ja_onnx.device.providers import ort

# Blocks that one call moves: bounds the copy of them that the kernels keep between.
_MOVED_AT_ONCE = 4096


class BlockMover:
    """Copies blocks between buffers, or within one.

    Args:
        session: The graph.
        memory: Where the buffers are.
    """

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
