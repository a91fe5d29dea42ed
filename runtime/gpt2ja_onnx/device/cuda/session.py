"""The fused graph on a GPU: buffers stay on the device, and decoding replays CUDA graphs."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.device.cuda.block_mover import BlockMover
from gpt2ja_onnx.device.cuda.cache import CudaCache
from gpt2ja_onnx.device.cuda.memory import DeviceMemory, device_error
from gpt2ja_onnx.device.graph_file import check_inputs, environment, load_graph, session_options
from gpt2ja_onnx.device.providers import first_line, ort
from gpt2ja_onnx.errors import BundleError, OutOfMemoryError, ProviderError

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_onnx.bundle.manifest import Manifest
    from gpt2ja_onnx.device.cuda.step import Step

_PROVIDER = "CUDAExecutionProvider"
_GRAPH_ID = "gpu_graph_id"
_UNCAPTURED = "-1"
_MOST_GRAPHS = 256
# On GPUs of compute capability 9 and above prompts would go to cuDNN, which keeps a plan for each
# shape without limit; flash attention takes any shape. Read while a session is made.
_CUDNN_ATTENTION = "ORT_ENABLE_CUDNN_FLASH_ATTENTION"


class CudaSession:
    """Implements `gpt2ja_onnx.device.base.Session` on a GPU.

    A decoding call over the first rows of a cache is padded to a bucket of rows. From its second
    run on it replays a CUDA graph, captured then: one of a cache that is used once costs nothing.
    onnxruntime keeps captured graphs by thread, so one thread must do the decoding.

    Args:
        directory: The bundle's directory.
        manifest: Its manifest; it must be made for cuda.
        threads: Threads of what runs on the CPU.
        cuda_graphs: Capture and replay decoding.
        memory: Where buffers are.

    Attributes:
        captured: CUDA graphs that were captured since onnxruntime's session was opened.

    Raises:
        BundleError: onnxruntime cannot load the graph, or its tensors are not the contract's.
        ProviderError: onnxruntime cannot run it on a GPU here.
        SettingError: `threads` is below 1.
    """

    kernels = "cuda"
    prompt_tokens = 2048
    call_tokens = 2048

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        threads: int,
        cuda_graphs: bool = True,
        memory: DeviceMemory | None = None,
    ) -> None:
        self.manifest = manifest
        self.shape = manifest.shape
        self.memory = memory or DeviceMemory()
        self.captures = cuda_graphs
        self._threads = threads
        self._path = directory / names.MODEL_FILE
        self.captured = 0
        self._session = self._load(self._path)
        check_inputs(self._session, self.shape, self._path)
        self._mover = BlockMover(self._load(directory / names.CACHE_FILE), self.memory)

    def new_cache(self) -> CudaCache:
        """See `gpt2ja_onnx.device.base.Session`."""
        return CudaCache(self.shape, self.memory, self._mover, self)

    def run(self, step: Step) -> None:
        """Run a step, by its captured graph if it decodes and has run before.

        Raises:
            OutOfMemoryError: The device has no room for what is in between.
            ProviderError: The run failed for another reason.
        """
        captured = self.captures and step.new == 1 and step.runs > 0
        if captured and step.graph_id is None and self.captured >= _MOST_GRAPHS:
            # Graphs that were let go of may stay in onnxruntime: a new session is free of them.
            self._reopen()
        if step.bound_to is not self._session:
            step.bind(self._session)
        first = captured and step.graph_id is None
        if first:
            self.captured += 1
            step.graph_id = self.captured
        options = ort.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, str(step.graph_id) if captured else _UNCAPTURED)
        try:
            self._session.run_with_iobinding(step.binding, options)
        except Exception as error:
            failure = device_error(error)
            if captured:
                # What failed within a capture leaves the stream capturing: only a new session
                # runs again.
                self._stop_capturing(first_line(error))
            if not captured or isinstance(failure, OutOfMemoryError):
                raise failure from error
            self.run(step)

    def release(self, step: Step) -> None:
        """Let go of a step's captured graph; those of a session that is closed went with it."""
        if step.graph_id is not None and step.bound_to is self._session:
            self._session.release_captured_graph(step.graph_id)

    def _load(self, path: Path) -> ort.InferenceSession:
        """Open a graph on the GPU, without captured graphs if it cannot be opened with them."""
        try:
            return load_graph(path, self._open)
        except BundleError as error:
            if not self.captures:
                raise
            self.captures = False
            session = load_graph(path, self._open)
            _warn(str(error))
            return session

    def _open(self, path: Path) -> ort.InferenceSession:
        captures = self.captures and path == self._path
        options = {
            "device_id": 0,
            "arena_extend_strategy": "kSameAsRequested",
            "enable_cuda_graph": str(int(captures)),
        }
        with environment(_CUDNN_ATTENTION, "0"):
            session = ort.InferenceSession(
                str(path),
                session_options(self._threads),
                providers=[(_PROVIDER, options)],
                enable_fallback=False,
            )
        if _PROVIDER not in session.get_providers():
            raise ProviderError(
                "onnxruntime cannot start CUDA here; its own lines above say why, and "
                "`gpt2ja-onnx inspect` what is missing"
            )
        return session

    def _stop_capturing(self, reason: str) -> None:
        """Open the graph anew: a session that captures once would capture every call."""
        self.captures = False
        self._reopen()
        _warn(reason)

    def _reopen(self) -> None:
        del self._session  # its weights go before they come again
        self.captured = 0
        self._session = self._load(self._path)


def _warn(reason: str) -> None:
    warnings.warn(
        f"CUDA graphs are off, decoding goes on without them: {reason}",
        RuntimeWarning,
        stacklevel=2,
    )
