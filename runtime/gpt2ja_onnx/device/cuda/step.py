"""One shape of call on the GPU: its buffers, and the plans that are views of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.device.base import JoinedLogits, Scores
from gpt2ja_onnx.device.cpu.plan import check_lengths
from gpt2ja_onnx.device.cuda.memory import ELEMENT_TYPES, Packed, View
from gpt2ja_onnx.device.log_normaliser import log_normalisers
from gpt2ja_onnx.device.providers import ort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.bundle.manifest import ModelShape
    from gpt2ja_onnx.device.base import Floats, Ids, Logits
    from gpt2ja_onnx.device.cuda.memory import DeviceMemory


class Runner(Protocol):
    """Runs steps: a session."""

    def run(self, step: Step) -> None:
        """Bind a step if it is not bound yet, and run it."""

    def release(self, step: Step) -> None:
        """Let go of a step's captured graph."""


class Step:
    """A call with `rows` rows of `new` tokens: buffers at fixed addresses on the device.

    What it takes goes over in one copy and what is read of it comes back in another; caches and
    logits stay where they are.

    Args:
        runner: Runs it.
        memory: Where the buffers are.
        shape: Sizes of the model.
        caches: Keys and values of every layer for the rows.
        owner: What owns their memory.
        rows: Rows that are computed.
        new: Tokens per row.
        positions: Positions per row that get logits.

    Attributes:
        rows: Rows that are computed.
        new: Tokens per row.
        inputs: What goes over, by the graph's names.
        outputs: What comes back, by the graph's names.
        runs: How often it has run.
        graph_id: Of the CUDA graph that replays it; None before one is captured.
        binding: To the session `bound_to`; None before the first run.
    """

    def __init__(
        self,
        runner: Runner,
        memory: DeviceMemory,
        shape: ModelShape,
        caches: list[View],
        owner: object,
        rows: int,
        new: int,
        positions: int,
    ) -> None:
        self._runner = runner
        self._memory = memory
        self._shape = shape
        self._caches = caches
        self._owner = owner  # of the caches' memory: the addresses are good as long as it lives
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
        self.runs = 0
        self.graph_id: int | None = None
        self.binding: Any = None
        self.bound_to: Any = None

    def bind(self, session: ort.InferenceSession) -> None:
        """Bind all buffers to a session."""
        memory = self._memory
        self.graph_id = None
        self.bound_to = session
        self.binding = session.io_binding()
        for layer in range(self._shape.layers):
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
            array[rows:] = 0  # a padding row: one token at its start
        np.subtract(lengths, 1, out=self.inputs[names.SEQLENS_K][:rows])
        self.inputs[names.LOGIT_POSITIONS][:rows] = positions
        self.inputs[names.LOGIT_POSITIONS] += self._starts
        # A captured graph keeps the number that it saw, so decoding always gives the largest
        # one. The kernels size their work by it, and compute by the rows' own lengths.
        self._total[...] = capacity if self.new == 1 else max(longest, self.new)
        self._logits_read = None
        with self._memory.lock:
            self._packed_inputs.upload()
            self._runner.run(self)
            self._packed_outputs.download()
        self.runs += 1
        _order_ties(self.outputs[names.CANDIDATE_SCORES], self.outputs[names.CANDIDATE_IDS])
        finite = np.isfinite(self.outputs[names.LOGIT_SUMS])
        self.outputs[names.CANDIDATE_SCORES][~finite] = np.nan

    def release(self) -> None:
        """Let go of the captured graph: the addresses in it are about to end."""
        self._runner.release(self)
        self.graph_id = None

    @property
    def vocab_size(self) -> int:
        """Logits per position."""
        return self._shape.vocab_size

    def read_logits(self) -> NDArray[np.float32]:
        """All logits, shape (rows, positions, vocabulary); copied once after each run."""
        if self._logits_read is None:
            shape = self._logits_view.shape
            with self._memory.lock:
                words = self._logits.numpy()
            self._logits_read = words.view(np.float32)[: np.prod(shape)].reshape(shape)
        return self._logits_read


class DeviceLogits:
    """Logits of a step's first rows; all are copied to main memory when the first one is read.

    Args:
        step: Whose logits they are, until it runs again.
        rows: How many rows.
    """

    def __init__(self, step: Step, rows: int) -> None:
        self._step = step
        self._rows = rows
        self.native = None

    def __len__(self) -> int:
        return self._rows

    @property
    def vocab_size(self) -> int:
        """See `gpt2ja_onnx.device.base.Logits`."""
        return self._step.vocab_size

    def row(self, row: int) -> Floats:
        """See `gpt2ja_onnx.device.base.Logits`."""
        scores: Floats = self._step.read_logits()[row, 0]
        return scores

    def read(self) -> Floats:
        """See `gpt2ja_onnx.device.base.Logits`."""
        return self._step.read_logits()[: self._rows, 0]

    def take(self, rows: Sequence[int]) -> Logits:
        """See `gpt2ja_onnx.device.base.Logits`."""
        return JoinedLogits([(self, row) for row in rows])


class CudaPlan:
    """Implements `gpt2ja_onnx.device.base.Plan` over the first rows of a step.

    The candidates of a row whose logits are not all finite are NaN.
    """

    def __init__(self, step: Step, rows: int) -> None:
        self._step = step
        self._rows = rows
        self.input_ids = step.inputs[names.INPUT_IDS][:rows]
        self.position_ids = step.inputs[names.POSITION_IDS][:rows]
        self.lengths = np.zeros(rows, dtype=np.int32)
        self.logit_positions = np.zeros_like(step.inputs[names.LOGIT_POSITIONS][:rows])

    def run(self) -> None:
        """See `gpt2ja_onnx.device.base.Plan`."""
        self._step.run(self.lengths, self.logit_positions)

    def scores(self) -> Scores:
        """See `gpt2ja_onnx.device.base.Plan`."""
        return Scores(
            self._step.outputs[names.CANDIDATE_SCORES][: self._rows, 0],
            self._step.outputs[names.CANDIDATE_IDS][: self._rows, 0],
            DeviceLogits(self._step, self._rows),
        )

    def log_normalisers(self) -> NDArray[np.float64]:
        """See `gpt2ja_onnx.device.base.Plan`."""
        return log_normalisers(self.all_logits())

    def all_logits(self) -> Floats:
        """See `gpt2ja_onnx.device.base.Plan`."""
        return self._step.read_logits()[: self._rows]

    def all_candidates(self) -> tuple[Floats, Ids]:
        """See `gpt2ja_onnx.device.base.Plan`."""
        outputs = self._step.outputs
        return (
            outputs[names.CANDIDATE_SCORES][: self._rows],
            outputs[names.CANDIDATE_IDS][: self._rows],
        )


def _order_ties(scores: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
    """Order equal scores by rising id, as the CPU's TopK does and the sampler expects."""
    tied = (scores[..., 1:] == scores[..., :-1]).any(axis=-1)
    for place in np.argwhere(tied):
        row = tuple(place)
        order = np.lexsort((ids[row], -scores[row]))
        scores[row], ids[row] = scores[row][order], ids[row][order]
