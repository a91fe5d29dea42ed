"""Memory of a GPU: OrtValues that graphs are bound to by address, and copies to and from them."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpt2ja_onnx.device.providers import first_line, ort
from gpt2ja_onnx.errors import Gpt2jaError, OutOfMemoryError, ProviderError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray

# Element types by ONNX's numbers; bfloat16 has no name in numpy.
ELEMENT_TYPES = {"float32": 1, "int32": 6, "int64": 7, "float16": 10, "bfloat16": 16}
# What allocators, CUDA, cuBLAS and cuDNN say when nothing is left.
_EXHAUSTED = ("failed to allocate memory", "out of memory", "alloc_failed", "bad_alloc")
_ALIGNMENT = 256  # bytes; what CUDA's own allocator aligns to
_WORD = 8
# One for all models of the process: a capture forbids the calls of every other thread.
_LOCK = threading.RLock()


class View(NamedTuple):
    """A tensor in device memory: its address, its shape, and ONNX's number of its type."""

    address: int
    shape: tuple[int, ...]
    element_type: int


class DeviceMemory:
    """Allocates and binds memory of one device.

    Attributes:
        kind: onnxruntime's name of the device. The tests run the same code on ``cpu``.
        lock: Held by whoever runs a graph, allocates or copies: while a CUDA graph is being
            captured, no other thread may call CUDA.
    """

    def __init__(self, kind: str = "cuda") -> None:
        self.kind = kind
        self.lock = _LOCK

    def empty(self, words: int) -> Any:
        """An OrtValue of `words` 8-byte words, not initialised.

        Raises:
            OutOfMemoryError: The device has no room for it.
        """
        with self.lock:
            try:
                return ort.OrtValue.ortvalue_from_shape_and_type((words,), np.int64, self.kind, 0)
            except Exception as error:
                raise device_error(error) from error

    def upload(self, array: NDArray[np.int64]) -> Any:
        """An OrtValue with a copy of `array`."""
        with self.lock:
            value = self.empty(array.size)
            value.update_inplace(np.ascontiguousarray(array).reshape(-1))
        return value

    def bind_input(self, binding: Any, name: str, view: View) -> None:
        """Let a graph read `view` as its input `name`."""
        binding.bind_input(name, self.kind, 0, view.element_type, view.shape, view.address)

    def bind_output(self, binding: Any, name: str, view: View) -> None:
        """Let a graph write its output `name` to `view`."""
        binding.bind_output(name, self.kind, 0, view.element_type, view.shape, view.address)


class Packed:
    """Several arrays beside each other on the device, so that one copy moves them all.

    Attributes:
        arrays: The arrays by name, in main memory.
        views: The same on the device.
    """

    def __init__(
        self, memory: DeviceMemory, sections: Mapping[str, tuple[tuple[int, ...], DTypeLike]]
    ) -> None:
        starts, end = {}, 0
        for name, (shape, dtype) in sections.items():
            starts[name] = end
            size = math.prod(shape) * np.dtype(dtype).itemsize
            end += -(-size // _ALIGNMENT) * _ALIGNMENT
        self._host = np.zeros(end // _WORD, dtype=np.int64)
        self._device = memory.empty(len(self._host))
        base = self._device.data_ptr()
        self.arrays: dict[str, NDArray[Any]] = {}
        self.views: dict[str, View] = {}
        for name, (shape, dtype) in sections.items():
            count, kind = math.prod(shape), np.dtype(dtype)
            part = self._host.view(np.uint8)[starts[name] :][: count * kind.itemsize]
            self.arrays[name] = part.view(kind).reshape(shape)
            self.views[name] = View(base + starts[name], shape, ELEMENT_TYPES[kind.name])

    def upload(self) -> None:
        """Copy all arrays to the device."""
        self._device.update_inplace(self._host)

    def download(self) -> None:
        """Copy all arrays from the device."""
        self._host[:] = self._device.numpy()


def device_error(error: Exception) -> Gpt2jaError:
    """An error of onnxruntime as one of ours."""
    reason = first_line(error)
    if any(sign in str(error).lower() for sign in _EXHAUSTED):
        return OutOfMemoryError(f"the device is out of memory: {reason}")
    return ProviderError(f"onnxruntime failed: {reason}")
