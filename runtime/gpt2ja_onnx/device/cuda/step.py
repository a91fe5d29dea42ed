"""One shape of call on the GPU: its buffers, and the plans that are views of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.device.cpu.session import check_lengths
from gpt2ja_onnx.device.cuda.memory import ELEMENT_TYPES, Packed, View
from gpt2ja_onnx.device.logits import DeviceLogits
from gpt2ja_onnx.device.providers import ort

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2ja_onnx.device.cuda.cache import CacheRows
    from gpt2ja_onnx.device.cuda.session import CudaSession


class Step:
    """A call with `rows` rows of `new` tokens: buffers at fixed addresses on the device.

    What it takes goes over in one copy and what is read of it comes back in another; caches and
    logits stay where they are.

    Attributes:
        rows: Rows that are computed.
        new: Tokens a row.
        inputs: What goes over, by the graph's names.
        outputs: What comes back, by the graph's names.
        runs: How often it has run.
        graph_id: Of the CUDA graph that replays it; None before one is captured.
        binding: To the session `bound_to`; None before the first run.
    """

    def __init__(
        self, session: CudaSession, rows: int, new: int, positions: int, caches: CacheRows
    ) -> None:
        shape, memory = session.shape, session.memory
        self._session = session
        self._caches = caches.cache.views(caches.start, caches.stop)
        self._storage = caches.cache.storage  # the addresses are good as long as it lives
        self.rows, self.new = rows, new
        self._starts = np.arange(rows)[:, None] * new  # of the rows in the line of all tokens
        best = (rows, positions, shape.candidates)
        self._packed_inputs = Packed(
            memory,
            {
                names.INPUT_IDS: ((rows, new), np.int64),
                names.POSITION_IDS: ((rows, new), np.int64),
                names.LOGIT_POSITIONS: ((rows, positions), np.int64),
                names.SEQLENS_K: ((rows,), np.int32),
            },
        )
        self._packed_outputs = Packed(
            memory,
            {
                names.CANDIDATE_SCORES: (best, np.float32),
                names.CANDIDATE_IDS: (best, np.int64),
                names.LOGIT_SUMS: ((rows, positions), np.float32),
            },
        )
        self.inputs, self.outputs = self._packed_inputs.arrays, self._packed_outputs.arrays
        self._logits = memory.empty(-(-rows * positions * shape.vocab_size // 2))
        self._logits_view = View(
            self._logits.data_ptr(), (rows, positions, shape.vocab_size), ELEMENT_TYPES["float32"]
        )
        self._logits_read: NDArray[np.float32] | None = None
        self._total = np.zeros((), dtype=np.int32)  # GroupQueryAttention takes it from the CPU
        self.logits = DeviceLogits.over(rows, positions, shape.vocab_size, self.read_logits)
        self.runs = 0
        self.graph_id: int | None = None
        self.binding: Any = None
        self.bound_to: Any = None

    def bind(self, session: ort.InferenceSession) -> None:
        """Bind all buffers to a session."""
        memory = self._session.memory
        self.graph_id = None
        self.bound_to = session
        self.binding = session.io_binding()
        for layer in range(self._session.shape.layers):
            parts = self._caches[2 * layer : 2 * layer + 2]
            for part, view in zip(names.CACHE_PARTS, parts, strict=True):
                memory.bind_input(self.binding, names.past_name(layer, part), view)
                memory.bind_output(self.binding, names.present_name(layer, part), view)
        for name, view in self._packed_inputs.views.items():
            memory.bind_input(self.binding, name, view)
        total = ort.OrtValue.ortvalue_from_numpy(self._total)
        self.binding.bind_ortvalue_input(names.TOTAL_SEQUENCE_LENGTH, total)
        for name, view in self._packed_outputs.views.items():
            memory.bind_output(self.binding, name, view)
        memory.bind_output(self.binding, names.LOGITS, self._logits_view)

    def run(self, lengths: NDArray[np.int32], positions: NDArray[np.int64]) -> None:
        """Compute the first ``len(lengths)`` rows; the others are padding."""
        rows, capacity = len(lengths), self._caches[0].shape[2]
        longest = check_lengths(lengths, self.new, capacity)
        for array in self.inputs.values():
            array[rows:] = 0  # one token at the start of a row that nobody has
        np.subtract(lengths, 1, out=self.inputs[names.SEQLENS_K][:rows])
        self.inputs[names.LOGIT_POSITIONS][:rows] = positions
        self.inputs[names.LOGIT_POSITIONS] += self._starts
        # A captured graph keeps the number that it saw, so decoding always gives the largest
        # one. The kernels size their work by it, and compute by the rows' own lengths.
        self._total[...] = capacity if self.new == 1 else max(longest, self.new)
        self._logits_read = None
        with self._session.memory.lock:
            self._packed_inputs.upload()
            self._session.run(self)
            self._packed_outputs.download()
        self.runs += 1
        _order_ties(self.outputs[names.CANDIDATE_SCORES], self.outputs[names.CANDIDATE_IDS])
        finite = np.isfinite(self.outputs[names.LOGIT_SUMS])
        self.outputs[names.CANDIDATE_SCORES][~finite] = np.nan

    def release(self) -> None:
        """Let go of the captured graph: the addresses in it are about to end."""
        self._session.release(self)
        self.graph_id = None

    def read_logits(self) -> NDArray[np.float32]:
        """All logits, shape (rows, positions, vocabulary); copied once after each run."""
        if self._logits_read is None:
            shape = self._logits_view.shape
            with self._session.memory.lock:
                words = self._logits.numpy()
            self._logits_read = words.view(np.float32)[: np.prod(shape)].reshape(shape)
        return self._logits_read


class CudaPlan:
    """The first rows of a step, used as `gpt2ja_onnx.device.cpu.session.Plan` is.

    The candidates of a row whose logits are not all finite are NaN.
    """

    def __init__(self, step: Step, rows: int) -> None:
        self._step = step
        self.input_ids = step.inputs[names.INPUT_IDS][:rows]
        self.position_ids = step.inputs[names.POSITION_IDS][:rows]
        self.lengths = np.zeros(rows, dtype=np.int32)
        self.logit_positions = np.zeros_like(step.inputs[names.LOGIT_POSITIONS][:rows])
        self.candidate_scores = step.outputs[names.CANDIDATE_SCORES][:rows]
        self.candidate_ids = step.outputs[names.CANDIDATE_IDS][:rows]
        self.logits = step.logits[:rows]

    def run(self) -> None:
        """Run the graph over what the buffers hold."""
        self._step.run(self.lengths, self.logit_positions)


def _order_ties(scores: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
    """Order equal scores by rising id, as the CPU's TopK does and the sampler expects."""
    tied = (scores[..., 1:] == scores[..., :-1]).any(axis=-1)
    for place in np.argwhere(tied):
        row = tuple(place)
        order = np.lexsort((ids[row], -scores[row]))
        scores[row], ids[row] = scores[row][order], ids[row][order]
