"""The fused graph in onnxruntime: one call, over buffers that are bound ahead."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.device.cpu.cache import KVCache
from gpt2ja_onnx.device.cpu.features import int8_products_saturate
from gpt2ja_onnx.device.providers import ort
from gpt2ja_onnx.errors import BundleError, Gpt2jaError, ProviderError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from gpt2ja_onnx.bundle.manifest import Manifest


# Of onnxruntime's two attentions on the CPU the plain one is faster for what runs here, single
# tokens and pieces of prompts, and gives a token the same bits in any piece but one of its own.
# It is asked for by a variable of the process, read while a session is made.
_PLAIN_ATTENTION = "ORT_GQA_DISABLE_FLASH_ATTENTION"
_environment_lock = threading.Lock()


class Session:
    """A loaded graph on the CPU; `gpt2ja_onnx.device.cuda.session.CudaSession` is one on a GPU.

    Args:
        directory: The bundle's directory.
        manifest: Its manifest.
        threads: Threads of one operator.

    Raises:
        BundleError: onnxruntime cannot load the graph, or its tensors are not the contract's.
        ProviderError: The provider that the bundle needs is not available.

    Attributes:
        prompt_tokens: New tokens of a row that one call computes best; a longer prompt is
            computed piece by piece. On the CPU the attention of a call looks from every new
            token at all new ones, later ones included.
        call_tokens: New tokens of all rows, padding included, that one call computes best: on
            the CPU more are not faster, and the attention's scores take more memory.
    """

    prompt_tokens = 128
    call_tokens = 512

    def __init__(self, directory: Path, manifest: Manifest, *, threads: int) -> None:
        if threads < 1:
            raise SettingError(f"threads must be at least 1, not {threads}")
        self._threads = threads
        self._path = directory / names.MODEL_FILE
        self.manifest = manifest
        self.shape = manifest.shape
        self._session = self._load(self._path)
        self._check_tensors()

    def new_cache(self) -> KVCache:
        """An empty cache, of which `plan` takes rows."""
        return KVCache(self.shape)

    def plan(self, rows: int, new: int, positions: int, caches: Any) -> Plan:
        """Bind buffers for calls with `rows` rows of `new` tokens.

        Args:
            rows: Rows of the batch.
            new: Tokens a row, padding included.
            positions: Positions a row to give logits for.
            caches: That many rows of a cache, from its `slices`; read and written in place. On
                a GPU a plan for decoding may also write to rows behind them.
        """
        return Plan(self._session, self.manifest, rows, new, positions, caches)

    def _options(self) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # The exporter has made every fusion; optimising again would only cost load time.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Shapes change from call to call; patterns of them would pile up, and an arena would keep
        # what the longest prompt and the packing of the weights took. Steps are as fast without.
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4  # what fails is raised
        if self.manifest.quantization and int8_products_saturate():
            # onnxruntime replaces int8 weights by uint8 ones, whose products are exact, in one of
            # its extended optimisations.
            options.add_session_config_entry("session.x64quantprecision", "1")
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        return options

    def _open(self, path: Path) -> ort.InferenceSession:
        with _environment(_PLAIN_ATTENTION, "1"):
            return ort.InferenceSession(
                str(path), self._options(), providers=["CPUExecutionProvider"]
            )

    def _load(self, path: Path) -> ort.InferenceSession:
        try:
            return self._open(path)
        except Gpt2jaError:
            raise
        except Exception as error:  # onnxruntime's errors derive from nothing better
            raise BundleError(
                f"{path}: onnxruntime cannot load the graph: {first_line(error)}"
            ) from error

    def _check_tensors(self) -> None:
        found = {value.name: value.shape for value in self._session.get_inputs()}
        expected = {
            names.INPUT_IDS,
            names.POSITION_IDS,
            names.SEQLENS_K,
            names.TOTAL_SEQUENCE_LENGTH,
            names.LOGIT_POSITIONS,
        }
        expected |= {
            names.past_name(layer, part)
            for layer in range(self.shape.layers)
            for part in names.CACHE_PARTS
        }
        if set(found) != expected:
            wrong = sorted(set(found) ^ expected)
            raise BundleError(
                f"{self._path}: its inputs are not the manifest's; they differ in {wrong}"
            )
        heads, size = found[names.past_name(0, "key")][1::2]
        if (heads, size) != (self.shape.heads, self.shape.head_size):
            raise BundleError(
                f"{self._path}: has {heads} heads of {size}, the manifest says "
                f"{self.shape.heads} of {self.shape.head_size}"
            )


class Plan:
    """Buffers of one call, bound once: fill the inputs, `run`, read the outputs.

    Attributes:
        input_ids: int64, shape (rows, new); rows are padded on the right.
        position_ids: int64, shape (rows, new).
        lengths: int32, shape (rows,): tokens of each row after the call, cached ones included,
            padding not. More than one new token on top of cached ones needs a batch of one row.
        logit_positions: int64, shape (rows, positions), counted among the new tokens of the row.
        logits: float32, shape (rows, positions, vocabulary).
        candidate_scores: float32, shape (rows, positions, candidates), sorted downwards.
        candidate_ids: int64, shape (rows, positions, candidates).
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        manifest: Manifest,
        rows: int,
        new: int,
        positions: int,
        caches: Sequence[NDArray[np.generic]],
    ) -> None:
        shape = manifest.shape
        self._session = session
        self._capacity = caches[0].shape[2]
        self._new = new
        self.input_ids = np.zeros((rows, new), dtype=np.int64)
        self.position_ids = np.zeros((rows, new), dtype=np.int64)
        self.lengths = np.zeros(rows, dtype=np.int32)
        self.logit_positions = np.zeros((rows, positions), dtype=np.int64)
        self.logits = np.empty((rows, positions, shape.vocab_size), dtype=np.float32)
        self.candidate_scores = np.empty((rows, positions, shape.candidates), dtype=np.float32)
        self.candidate_ids = np.empty((rows, positions, shape.candidates), dtype=np.int64)
        self._seqlens = np.zeros(rows, dtype=np.int32)
        self._total = np.zeros((), dtype=np.int32)
        self._flat: NDArray[np.int64] | None = None  # what a graph for cuda takes
        if manifest.device == "cuda":
            self._flat = np.zeros((rows, positions), dtype=np.int64)
        self._binding = session.io_binding()
        self._bound: list[Any] = []  # OrtValues over our arrays: alive as long as the binding
        inputs: dict[str, NDArray[Any]] = {
            names.INPUT_IDS: self.input_ids,
            names.POSITION_IDS: self.position_ids,
            names.SEQLENS_K: self._seqlens,
            names.TOTAL_SEQUENCE_LENGTH: self._total,
            names.LOGIT_POSITIONS: self.logit_positions if self._flat is None else self._flat,
        }
        outputs: dict[str, NDArray[Any]] = {
            names.LOGITS: self.logits,
            names.CANDIDATE_SCORES: self.candidate_scores,
            names.CANDIDATE_IDS: self.candidate_ids,
        }
        for layer in range(shape.layers):
            for part, cache in zip(names.CACHE_PARTS, caches[2 * layer :], strict=False):
                value = self._wrap(cache)
                self._binding.bind_ortvalue_input(names.past_name(layer, part), value)
                self._binding.bind_ortvalue_output(names.present_name(layer, part), value)
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, self._wrap(array))
        for name, array in outputs.items():
            self._binding.bind_ortvalue_output(name, self._wrap(array))

    def run(self) -> None:
        """Run the graph over what the buffers hold."""
        longest = check_lengths(self.lengths, self._new, self._capacity)
        np.subtract(self.lengths, 1, out=self._seqlens)
        # A padded row may be wider than the longest one is long.
        self._total[...] = max(longest, self._new)
        if self._flat is not None:
            starts = np.arange(len(self.lengths))[:, None] * self._new
            np.add(self.logit_positions, starts, out=self._flat)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise ProviderError(f"onnxruntime failed: {first_line(error)}") from error

    def _wrap(self, array: NDArray[Any]) -> Any:
        value = ort.OrtValue.ortvalue_from_numpy(array)
        self._bound.append(value)
        return value


def check_lengths(lengths: NDArray[np.int32], new: int, capacity: int) -> int:
    """The longest of the row lengths, all of which must lie in the cache.

    onnxruntime does not check these itself in every release: see GroupQueryAttention.
    """
    longest = int(lengths.max())
    if lengths.min() < 1 or max(longest, new) > capacity:
        raise AssertionError(f"row lengths {lengths} outside of 1..{capacity}")
    return longest


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Give a variable of the process a value for a while; one thread at a time."""
    with _environment_lock:
        before = os.environ.get(name)
        os.environ[name] = value
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


def first_line(error: Exception) -> str:
    """What an error of onnxruntime says, without the lines that follow."""
    return next(iter(str(error).splitlines()), type(error).__name__)
