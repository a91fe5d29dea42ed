"""The native operators: where their library is, what it can run here, and what it has run."""

from __future__ import annotations

import ctypes
import functools
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_kernels.chooser import Chooser

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A file beside this one and no other: a library is code, which no bundle, working directory or
# variable may choose.
_LIBRARY = Path(__file__).with_name("_kernels.so")
# Raised with every change that makes an older library wrong for a newer bundle, or the other way
# round; `gpt2ja_version` in register.c gives the same number.
VERSION = 6


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
            _address(scores),
            ctypes.c_size_t(largest.size),
            ctypes.c_int(scores.shape[-1]),
            _address(largest),
            _address(totals),
        )
        return largest, totals

    def draw_nucleus(
        self,
        scores: NDArray[np.float32],
        temperature: NDArray[np.float32],
        limit: NDArray[np.float64],
        min_p: NDArray[np.float64],
        uniform: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Draw from the nucleus of each row, as ``nucleus.h`` describes it.

        Args:
            scores: Shape (rows, size), contiguous.
            temperature: What scores are divided by, shape (rows,).
            limit: The part of all probability that a token and those behind it must exceed to be
                kept, below 0 for no such bound, shape (rows,).
            min_p: Least weight that is kept, of the best token's, shape (rows,).
            uniform: Numbers in [0, 1), shape (rows,).

        Returns:
            The place of a score, shape (rows,); -1 where a decision hangs on rounding, or scores
            are not finite.
        """
        assert scores.dtype == np.float32
        assert scores.flags.c_contiguous
        rows, size = scores.shape
        columns: list[NDArray[np.generic]] = [
            np.ascontiguousarray(temperature, dtype=np.float32),
            *(np.ascontiguousarray(column, dtype=np.float64) for column in (limit, min_p, uniform)),
        ]
        assert all(column.shape == (rows,) for column in columns)
        drawn = np.empty(rows, dtype=np.int64)
        self._library.gpt2ja_draw_nucleus(
            _address(scores),
            ctypes.c_size_t(rows),
            ctypes.c_int(size),
            *(_address(array) for array in (*columns, drawn)),
        )
        return drawn

    def best(
        self, scores: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The largest scores, falling, equal ones by rising place, and their places.

        Args:
            scores: Shape (size,), contiguous.
            count: How many, up to 256 and to `size`.

        Returns:
            Two arrays of shape (count,).
        """
        assert scores.dtype == np.float32
        assert scores.flags.c_contiguous
        assert 0 < count <= min(len(scores), 256)
        best = np.empty(count, dtype=np.float32)
        places = np.empty(count, dtype=np.int64)
        self._library.gpt2ja_best(
            _address(scores),
            ctypes.c_int(len(scores)),
            ctypes.c_int(count),
            _address(best),
            _address(places),
        )
        return best, places

    def chooser(self, choices: NDArray[np.void], vocab_size: int) -> Chooser:
        """What chooses tokens for some rows, step after step.

        Args:
            choices: How, one a row, shape (rows,), of the type `gpt2ja_kernels.chooser.CHOICE`.
            vocab_size: Scores of a row.
        """
        return Chooser(self._library.gpt2ja_choose, choices, vocab_size)

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


def _address(array: NDArray[np.generic]) -> ctypes.c_void_p:
    """Where a contiguous array begins; the array must live until the call has returned."""
    return ctypes.c_void_p(array.ctypes.data)


def load_kernels() -> Kernels | str:
    """The library, or in a few words why native operators cannot run here."""
    return _load(_LIBRARY)


@functools.cache
def _load(path: Path) -> Kernels | str:
    if not path.is_file():
        return "this installation has no native operators"
    if not _is_whole(path):
        return f"the native operators cannot be loaded: {path} is cut off; install them again"
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
        return "the processor has neither AVX-512 VNNI nor AVX2 and FMA"
    library.gpt2ja_calls.restype = library.gpt2ja_bytes.restype = ctypes.c_uint64
    library.gpt2ja_multiply_rate.restype = ctypes.c_double
    return Kernels(path, library, name.decode("ascii"))


def _is_whole(library: Path) -> bool:
    """Whether the file reaches as far as its ELF header says: one that was cut off kills.

    The section headers, which linkers write last, begin at byte 40 of the header's fields and are
    as many and as long as bytes 58 to 61 say ("Executable and Linkable Format", 64 bits).
    """
    with library.open("rb") as file:
        header = file.read(64)
    if len(header) < 64:
        return True  # the loader refuses what is no library
    (start,) = struct.unpack_from("<Q", header, 40)
    size, count = struct.unpack_from("<HH", header, 58)
    return library.stat().st_size >= int(start) + int(size) * int(count)
