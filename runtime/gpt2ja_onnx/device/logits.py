"""Logits that stay on a device until somebody looks at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


class DeviceLogits:
    """Stands where an array of logits stands, and copies from the device when it is read.

    Indexing selects rows and positions as in numpy; only what reaches the last axis, or
    ``np.asarray``, is copied. It holds what the plan gave last: read it before the plan runs
    again.

    Attributes:
        shape: As that of the array, the vocabulary last.
    """

    def __init__(self, places: NDArray[np.object_], vocab_size: int) -> None:
        self._places = places
        self.shape = (*places.shape, vocab_size)

    @classmethod
    def over(
        cls, rows: int, positions: int, vocab_size: int, read: Callable[[], NDArray[np.float32]]
    ) -> DeviceLogits:
        """Logits of shape (rows, positions, vocabulary) that `read` copies from the device."""
        places = np.empty((rows, positions), dtype=object)
        for index in np.ndindex(rows, positions):
            places[index] = _Place(read, index)
        return cls(places, vocab_size)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: Any) -> Any:
        found = self._places[key]
        if isinstance(found, _Place):
            return found.read()
        return DeviceLogits(found, self.shape[-1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.float32]:
        places: list[_Place] = self._places.ravel().tolist()
        rows = [place.read() for place in places]
        return np.stack(rows).reshape(self.shape).astype(dtype or np.float32, copy=False)

    def copy(self) -> DeviceLogits:
        """Itself: nothing was read yet that could be copied."""
        return self


class _Place:
    """One row of logits on the device."""

    __slots__ = ("_index", "_read")

    def __init__(self, read: Callable[[], NDArray[np.float32]], index: tuple[int, ...]) -> None:
        self._read = read
        self._index = index

    def read(self) -> NDArray[np.float32]:
        row: NDArray[np.float32] = self._read()[self._index]
        return row


Logits = np.ndarray[Any, np.dtype[np.float32]] | DeviceLogits


def joined(parts: Sequence[Any]) -> Any:
    """Arrays or device logits, one after another along the first axis."""
    if isinstance(parts[0], DeviceLogits):
        places = np.concatenate([part._places for part in parts])
        return DeviceLogits(places, parts[0].shape[-1])
    return np.concatenate(parts)
