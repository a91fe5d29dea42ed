"""The fused graph on a GPU: buffers stay on the device, and decoding replays CUDA graphs."""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.device.cpu.session import Session, first_line
from gpt2ja_onnx.device.cuda.cache import BlockMover, CudaCache, bucket
from gpt2ja_onnx.device.cuda.memory import DeviceMemory, device_error
from gpt2ja_onnx.device.cuda.step import CudaPlan, Step
from gpt2ja_onnx.device.providers import ort
from gpt2ja_onnx.errors import BundleError, OutOfMemoryError, ProviderError

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_onnx.bundle.manifest import Manifest
    from gpt2ja_onnx.device.cuda.cache import CacheRows

_PROVIDER = "CUDAExecutionProvider"
_GRAPH_ID = "gpu_graph_id"
_UNCAPTURED = "-1"


class CudaSession(Session):
    """A graph that is loaded on a GPU.

    A decoding call over the first rows of a cache is padded to a bucket of rows. From its second
    run on it replays a CUDA graph, captured then: one of a cache that is used once costs nothing.
    onnxruntime keeps captured graphs by thread, so one thread must do the decoding.

    Args:
        directory: The bundle's directory.
        manifest: Its manifest; it must be made for cuda.
        threads: Threads of what runs on the CPU.
        cuda_graphs: Capture and replay decoding.
        memory: Where buffers are.

    Raises:
        BundleError: onnxruntime cannot load the graph, or its tensors are not the contract's.
        ProviderError: onnxruntime cannot run it on a GPU here.
    """

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
        self.memory = memory or DeviceMemory()
        self.captures = cuda_graphs
        self._graph_ids = itertools.count(1)
        super().__init__(directory, manifest, threads=threads)
        mover = self._load(directory / names.CACHE_FILE)
        self._mover = BlockMover(mover, self.memory)

    def new_cache(self) -> CudaCache:
        """An empty cache, of which `plan` takes rows."""
        return CudaCache(self.shape, self.memory, self._mover)

    def plan(self, rows: int, new: int, positions: int, caches: CacheRows) -> CudaPlan:  # type: ignore[override]
        """See `gpt2ja_onnx.device.cpu.session.Session.plan`."""
        cache = caches.cache
        if new > 1 or positions > 1 or caches.start:
            return CudaPlan(Step(self, rows, new, positions, caches), rows)
        padded = bucket(rows)
        if padded not in cache.steps:
            cache.steps[padded] = Step(self, padded, 1, 1, cache.slices(0, padded))
        return CudaPlan(cache.steps[padded], rows)

    def run(self, step: Step) -> None:
        """Run a step, by its captured graph if it decodes and has run before.

        Raises:
            OutOfMemoryError: The device has no room for what is in between.
            ProviderError: The run failed for another reason.
        """
        if step.bound_to is not self._session:
            step.bind(self._session)
        captured = self.captures and step.new == 1 and step.runs > 0
        if captured and step.graph_id is None:
            step.graph_id = next(self._graph_ids)
        options = ort.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, str(step.graph_id) if captured else _UNCAPTURED)
        try:
            self._session.run_with_iobinding(step.binding, options)
        except Exception as error:
            failure = device_error(error)
            if not captured or isinstance(failure, OutOfMemoryError):
                raise failure from error
            self._stop_capturing(first_line(error))
            self.run(step)

    def release(self, step: Step) -> None:
        """Let go of a step's captured graph; those of a session that is closed went with it."""
        if step.graph_id is not None and step.bound_to is self._session:
            self._session.release_captured_graph(step.graph_id)

    def _load(self, path: Path) -> ort.InferenceSession:
        """Open a graph on the GPU, without captured graphs if it cannot be opened with them."""
        try:
            return super()._load(path)
        except BundleError as error:
            if not self.captures:
                raise
            self.captures = False
            session = super()._load(path)
            _warn(str(error))
            return session

    def _open(self, path: Path) -> ort.InferenceSession:
        captures = self.captures and path == self._path
        options = {
            "device_id": 0,
            "arena_extend_strategy": "kSameAsRequested",
            "enable_cuda_graph": str(int(captures)),
        }
        session = ort.InferenceSession(
            str(path), self._options(), providers=[(_PROVIDER, options)], enable_fallback=False
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
        self._session = super()._load(self._path)
        _warn(reason)


def _warn(reason: str) -> None:
    warnings.warn(
        f"CUDA graphs are off, decoding goes on without them: {reason}",
        RuntimeWarning,
        stacklevel=2,
    )
