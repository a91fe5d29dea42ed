"""The native operators: where their library is, what it can run here, and what it has run."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A file beside this one and no other: a library is code, which no bundle, working directory or
# variable may choose.
_LIBRARY = Path(__file__).with_name("_kernels.so")
# Raised with every change that makes an older library wrong for a newer bundle, or the other way
# round; `GPT2JA_VERSION` in register.c is the same number.
VERSION = 1


class Kernels:
    """The loaded library.

    Attributes:
        path: For onnxruntime's ``register_custom_ops_library``.
        instruction_set: What the operators use here: ``avx512_vnni`` or ``avx2``.
    """

    def __init__(self, path: Path, library: ctypes.CDLL, instruction_set: str) -> None:
        self.path = path
        self.instruction_set = instruction_set
        self._library = library

    @property
    def calls(self) -> int:
        """Calls of native operators in this process so far."""
        return int(self._library.gpt2ja_calls())

    def sum_exponentials(
        self, scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """The largest of each row of scores, and the sum of exp(score - largest).

        Args:
            scores: Shape (…, size), contiguous.

        Returns:
            Two arrays of shape (…,); the sum is NaN where a score is not finite.
        """
        assert scores.dtype == np.float32
        assert scores.flags.c_contiguous
        largest = np.empty(scores.shape[:-1], dtype=np.float32)
        totals = np.empty(scores.shape[:-1], dtype=np.float64)
        self._library.gpt2ja_sum_exponentials(
            scores.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_size_t(largest.size),
            ctypes.c_int(scores.shape[-1]),
            largest.ctypes.data_as(ctypes.c_void_p),
            totals.ctypes.data_as(ctypes.c_void_p),
        )
        return largest, totals

    @property
    def nbytes(self) -> int:
        """Bytes of packed weights that sessions hold now."""
        return int(self._library.gpt2ja_bytes())

    def multiply_rate(self) -> float:
        """Measure int8 products a second of the calling thread, with weights from its cache.

        Takes some 50 milliseconds without the GIL, so threads can measure at once. 0 if there is
        no memory for it.
        """
        return float(self._library.gpt2ja_multiply_rate())


def load_kernels() -> Kernels | str:
    """The library, or in a few words why native operators cannot run here."""
    return _load(_LIBRARY)


@functools.cache
def _load(path: Path) -> Kernels | str:
    if not path.is_file():
        return "this installation has no native operators"
    try:
        library = ctypes.CDLL(str(path))
        version = library.gpt2ja_version
        instruction_set = library.gpt2ja_instruction_set
    except (OSError, AttributeError) as error:
        return f"the native operators cannot be loaded: {error}"
    if (found := version()) != VERSION:
        return f"the native operators are of version {found}, not {VERSION}; install them again"
    instruction_set.restype = ctypes.c_char_p
    name = instruction_set()
    if name is None:
        return "the processor has neither AVX-512 VNNI nor AVX2"
    library.gpt2ja_calls.restype = library.gpt2ja_bytes.restype = ctypes.c_uint64
    library.gpt2ja_multiply_rate.restype = ctypes.c_double
    return Kernels(path, library, name.decode("ascii"))
