"""The contract of a device: sessions, the caches that they make, and calls over rows of a cache.

The CPU, CUDA and the tests' fakes implement these protocols; the engine knows nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_kernels import Kernels
    from gpt2ja_onnx.bundle.manifest import ModelShape

    Floats = NDArray[np.float32]
    Ids = NDArray[np.int64]
    Lengths = NDArray[np.int32]


class Session(Protocol):
    """A loaded graph."""

    @property
    def shape(self) -> ModelShape:
        """Sizes of the model."""
        ...

    @property
    def kernels(self) -> str:
        """What computes the graph here; with other kernels a seed may give another text."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """New tokens of a row that one call computes best; longer prompts go piece by piece."""
        ...

    @property
    def call_tokens(self) -> int:
        """New tokens of all rows, padding included, that one call computes best."""
        ...

    def new_cache(self) -> Cache:
        """An empty cache, over whose rows the graph is called."""
        ...


class Cache(Protocol):
    """Keys and values of all layers, in rows that are lent to sequences.

    What `plan` and `decode_plan` give is bound to the cache's memory, and good until `reserve`,
    `shrink` or `clear` moves it.
    """

    @property
    def rows(self) -> int:
        """Rows that there is memory for."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values take now."""
        ...

    def bytes_needed(self, rows: int, positions: int) -> int:
        """Bytes that `rows` rows of `positions` positions take, at most."""
        ...

    def reserve(
        self, rows: int, positions: int, used_rows: int, max_bytes: int | None = None
    ) -> None:
        """Make room for `rows` rows of `positions` positions; keep the first `used_rows`.

        Args:
            rows: Rows that are needed.
            positions: Positions per row that are needed, by the rows that are kept too.
            used_rows: Rows to keep.
            max_bytes: Give back rows and positions that are no longer needed before the memory
                grows beyond this; None keeps what there is.

        Raises:
            OutOfMemoryError: The device has no room for it; the cache is as it was, or empty if
                no row was used.
        """
        ...

    def shrink(self, rows: int, positions: int, used_rows: int) -> None:
        """Give memory back, down to `rows` rows of `positions` positions; keep `used_rows`."""
        ...

    def clear(self) -> None:
        """Give all memory back."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` to row `target`."""
        ...

    def copy_rows(
        self, sources: Sequence[int], targets: Sequence[int], length: int, start: int
    ) -> None:
        """Copy positions between several pairs of rows, as if all at once.

        Every source is read before a target is written, so rows may change places.

        Args:
            sources: Rows to read; one may occur several times.
            targets: Rows to write, one for each source; each may occur once.
            length: Positions, of the longest row.
            start: Where the first pair begins to differ; before it the rows of a pair are alike,
                and may be copied or not.
        """
        ...

    def plan(self, first: int, rows: int, new: int, positions: int) -> Plan:
        """A call over `rows` rows from row `first` on.

        Args:
            first: The first row.
            rows: Rows of the batch.
            new: Tokens per row, padding included.
            positions: Positions per row to give logits for.
        """
        ...

    def decode_plan(self, rows: int) -> Plan:
        """A call with one new token for each of the first `rows` rows; kept for the next step."""
        ...


class SavedPositions(Protocol):
    """Keys and values of some positions, apart from any row."""

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        ...


@runtime_checkable
class RowStore(Protocol):
    """A cache whose rows can be saved and restored."""

    def save(self, row: int, start: int, stop: int) -> SavedPositions:
        """Copy positions of a row."""
        ...

    def restore(self, saved: SavedPositions, row: int, start: int) -> None:
        """Write saved positions to a row, from `start` on."""
        ...


class Plan(Protocol):
    """One call of the graph: fill the inputs, `run`, read the outputs before it runs again."""

    @property
    def input_ids(self) -> Ids:
        """Shape (rows, new); rows are padded on the right."""
        ...

    @property
    def position_ids(self) -> Ids:
        """Shape (rows, new)."""
        ...

    @property
    def lengths(self) -> Lengths:
        """Tokens of each row after the call, cached ones included, padding not, shape (rows,).

        More than one new token on top of cached ones needs a batch of one row.
        """
        ...

    @property
    def logit_positions(self) -> Ids:
        """Counted among the new tokens of the row, shape (rows, positions)."""
        ...

    def run(self) -> None:
        """Run the graph over what the buffers hold.

        Raises:
            OutOfMemoryError: The device has no room for what is in between.
            ProviderError: The run failed for another reason.
        """
        ...

    def scores(self) -> Scores:
        """What the first position of every row was given."""
        ...

    def all_logits(self) -> Floats:
        """Logits of all positions, shape (rows, positions, vocabulary)."""
        ...

    def log_normalisers(self) -> NDArray[np.float64]:
        """What log-probabilities are less than those logits by, shape (rows, positions)."""
        ...

    def all_candidates(self) -> tuple[Floats, Ids]:
        """The best scores of all positions and their token ids, as `Scores` has them.

        Both have shape (rows, positions, candidates).
        """
        ...


class Logits(Protocol):
    """All scores of some rows, which stay on the device until they are read."""

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    @property
    def vocab_size(self) -> int:
        """Scores per row."""
        ...

    def row(self, row: int) -> Floats:
        """The scores of one row, shape (vocabulary,); not to be written to."""
        ...

    def read(self) -> Floats:
        """The scores of all rows, shape (rows, vocabulary); not to be written to."""
        ...

    def take(self, rows: Sequence[int]) -> Logits:
        """The same for some of the rows."""
        ...

    @property
    def native(self) -> Kernels | None:
        """What draws from these scores, where native operators have made them."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the graph says about the next token of some rows.

    Attributes:
        candidates: The best scores of each row, sorted downwards, equal ones by rising id, shape
            (rows, candidates). They are NaN or infinite where a row's state is broken.
        ids: Their token ids, shape (rows, candidates).
        logits: All scores.
    """

    candidates: Floats
    ids: Ids
    logits: Logits

    def __len__(self) -> int:
        return len(self.candidates)

    def finite(self) -> list[bool]:
        """Which rows' scores are numbers, one a row.

        The candidates tell: where a row's state is broken all its scores are NaN, and infinity is
        the best of scores.
        """
        finite: list[bool] = np.logical_and.reduce(np.isfinite(self.candidates), axis=1).tolist()
        return finite

    def take(self, rows: Sequence[int]) -> Scores:
        """The scores of some rows."""
        rows = list(rows)
        return Scores(self.candidates[rows], self.ids[rows], self.logits.take(rows))

    @staticmethod
    def joined(parts: Sequence[Scores]) -> Scores:
        """Scores of several calls, one after another."""
        if len(parts) == 1:
            return parts[0]
        return Scores(
            np.concatenate([part.candidates for part in parts]),
            np.concatenate([part.ids for part in parts]),
            JoinedLogits([(part.logits, row) for part in parts for row in range(len(part))]),
        )


class HostLogits:
    """Scores in main memory.

    Args:
        array: Shape (rows, vocabulary).
        native: What draws from them.
    """

    def __init__(self, array: Floats, native: Kernels | None = None) -> None:
        self._array = array
        self.native = native

    def __len__(self) -> int:
        return len(self._array)

    @property
    def vocab_size(self) -> int:
        """See `Logits`."""
        return int(self._array.shape[1])

    def row(self, row: int) -> Floats:
        """See `Logits`."""
        scores: Floats = self._array[row]
        return scores

    def read(self) -> Floats:
        """See `Logits`."""
        return self._array

    def take(self, rows: Sequence[int]) -> Logits:
        """See `Logits`."""
        return JoinedLogits([(self, row) for row in rows])


class JoinedLogits:
    """Rows of other scores, in any order.

    Args:
        places: Where each row stands.
    """

    def __init__(self, places: Sequence[tuple[Logits, int]]) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def native(self) -> Kernels | None:
        """See `Logits`."""
        return self._places[0][0].native

    @property
    def vocab_size(self) -> int:
        """See `Logits`."""
        return self._places[0][0].vocab_size

    def row(self, row: int) -> Floats:
        """See `Logits`."""
        logits, place = self._places[row]
        return logits.row(place)

    def read(self) -> Floats:
        """See `Logits`."""
        return np.stack([logits.row(place) for logits, place in self._places])

    def take(self, rows: Sequence[int]) -> JoinedLogits:
        """See `Logits`."""
        return JoinedLogits([self._places[row] for row in rows])
