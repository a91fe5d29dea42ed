"""One call of the fused graph on the CPU, over buffers that are bound ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.device.base import HostLogits, Scores
from gpt2ja_onnx.device.log_normaliser import log_normalisers
from gpt2ja_onnx.device.providers import first_line, ort
from gpt2ja_onnx.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_kernels import Kernels
    from gpt2ja_onnx.bundle.manifest import Manifest
    from gpt2ja_onnx.device.base import Floats, Ids, Lengths


@dataclass(frozen=True, slots=True, eq=False)
class Buffers:
    """What goes in and comes out of a call; see `gpt2ja_onnx.device.base.Plan` for the inputs.

    Attributes:
        seqlens: Shape (rows,): `lengths` minus 1, as the graph takes them.
        flat_positions: `logit_positions` counted over the tokens of all rows, as a graph for cuda
            takes them.
        logits: Shape (rows, positions, vocabulary).
        candidate_scores: Shape (rows, positions, candidates), sorted downwards.
        candidate_ids: Shape (rows, positions, candidates).
    """

    input_ids: Ids
    position_ids: Ids
    lengths: Lengths
    logit_positions: Ids
    seqlens: Lengths
    flat_positions: Ids
    logits: Floats
    candidate_scores: Floats
    candidate_ids: Ids

    @classmethod
    def allocate(cls, manifest: Manifest, rows: int, new: int, positions: int) -> Buffers:
        """Buffers of a call with `rows` rows of `new` tokens and logits for `positions` of them."""
        shape = manifest.shape
        return cls(
            input_ids=np.zeros((rows, new), dtype=np.int64),
            position_ids=np.zeros((rows, new), dtype=np.int64),
            lengths=np.zeros(rows, dtype=np.int32),
            logit_positions=np.zeros((rows, positions), dtype=np.int64),
            seqlens=np.zeros(rows, dtype=np.int32),
            flat_positions=np.zeros((rows, positions), dtype=np.int64),
            logits=np.empty((rows, positions, shape.vocab_size), dtype=np.float32),
            candidate_scores=np.empty((rows, positions, shape.candidates), dtype=np.float32),
            candidate_ids=np.empty((rows, positions, shape.candidates), dtype=np.int64),
        )

    def first(self, rows: int) -> Buffers:
        """The same memory for the first rows alone."""
        return Buffers(*(getattr(self, name)[:rows] for name in self.__slots__))


class CpuPlan:
    """Implements `gpt2ja_onnx.device.base.Plan` over `buffers` and rows of a cache.

    Args:
        session: onnxruntime's session.
        manifest: Of the graph.
        buffers: What is read and written.
        caches: Keys and values of every layer for the call's rows, each of shape (rows, heads,
            capacity, head size); read and written in place.
        native: The native operators, if they run.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        manifest: Manifest,
        buffers: Buffers,
        caches: Sequence[NDArray[np.generic]],
        native: Kernels | None,
    ) -> None:
        self._native = native
        self._scores = Scores(
            buffers.candidate_scores[:, 0],
            buffers.candidate_ids[:, 0],
            HostLogits(buffers.logits[:, 0], native),
        )
        self._session = session
        self._buffers = buffers
        self._capacity = caches[0].shape[2]
        self._total = np.zeros((), dtype=np.int32)
        self._flat = manifest.device == "cuda"
        self._binding = session.io_binding()
        self._bound: list[Any] = []  # OrtValues over our arrays: alive as long as the binding
        self.input_ids = buffers.input_ids
        self.position_ids = buffers.position_ids
        self.lengths = buffers.lengths
        self.logit_positions = buffers.logit_positions
        inputs: dict[str, NDArray[Any]] = {
            names.INPUT_IDS: buffers.input_ids,
            names.POSITION_IDS: buffers.position_ids,
            names.SEQLENS_K: buffers.seqlens,
            names.TOTAL_SEQUENCE_LENGTH: self._total,
            names.LOGIT_POSITIONS: (
                buffers.flat_positions if self._flat else buffers.logit_positions
            ),
        }
        outputs: dict[str, NDArray[Any]] = {
            names.LOGITS: buffers.logits,
            names.CANDIDATE_SCORES: buffers.candidate_scores,
            names.CANDIDATE_IDS: buffers.candidate_ids,
        }
        for layer in range(manifest.shape.layers):
            for part, cache in zip(names.CACHE_PARTS, caches[2 * layer :], strict=False):
                value = self._wrap(cache)
                self._binding.bind_ortvalue_input(names.past_name(layer, part), value)
                self._binding.bind_ortvalue_output(names.present_name(layer, part), value)
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, self._wrap(array))
        for name, array in outputs.items():
            self._binding.bind_ortvalue_output(name, self._wrap(array))

    def run(self) -> None:
        """See `gpt2ja_onnx.device.base.Plan`."""
        buffers = self._buffers
        rows, new = self.input_ids.shape
        longest = check_lengths(self.lengths, new, self._capacity)
        np.subtract(self.lengths, 1, out=buffers.seqlens)
        # A padded row may be wider than the longest one is long.
        self._total[...] = max(longest, new)
        if self._flat:
            starts = np.arange(rows)[:, None] * new
            np.add(self.logit_positions, starts, out=buffers.flat_positions)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise ProviderError(f"onnxruntime failed: {first_line(error)}") from error

    def scores(self) -> Scores:
        """See `gpt2ja_onnx.device.base.Plan`."""
        return self._scores

    def all_logits(self) -> Floats:
        """See `gpt2ja_onnx.device.base.Plan`."""
        return self._buffers.logits

    def log_normalisers(self) -> NDArray[np.float64]:
        """See `gpt2ja_onnx.device.base.Plan`."""
        return log_normalisers(self._buffers.logits, self._native)

    def all_candidates(self) -> tuple[Floats, Ids]:
        """See `gpt2ja_onnx.device.base.Plan`."""
        return self._buffers.candidate_scores, self._buffers.candidate_ids

    def _wrap(self, array: NDArray[Any]) -> Any:
        value = ort.OrtValue.ortvalue_from_numpy(array)
        self._bound.append(value)
        return value


def check_lengths(lengths: Lengths, new: int, capacity: int) -> int:
    """The longest of the row lengths, all of which must lie in the cache.

    onnxruntime does not check these itself in every release: see GroupQueryAttention.
    """
    given = lengths.tolist()  # of few numbers Python finds these sooner than numpy
    longest: int = max(given)
    if min(given) < 1 or max(longest, new) > capacity:
        raise AssertionError(f"row lengths {lengths} outside of 1..{capacity}")
    return longest
