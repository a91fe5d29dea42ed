"""A CUDA session that records what it is asked for, on a GPU or, with the same code, on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpt2ja_onnx.device.cuda.memory import DeviceMemory
from gpt2ja_onnx.device.cuda.session import CudaSession
from gpt2ja_onnx.device.graph_file import session_options
from gpt2ja_onnx.device.providers import ort

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_onnx.bundle.manifest import Manifest


class Recorder:
    """An InferenceSession with captured graphs.

    On the CPU a captured graph is replayed as CUDA does it: with the buffers that were bound
    when it was captured, whatever is bound now.
    """

    def __init__(self, inner: ort.InferenceSession, *, real: bool) -> None:
        self.inner = inner
        self.real = real
        self.ran: list[int] = []
        self.released: list[int] = []
        self.broken = False
        self.exhausted = False
        self._captured: dict[int, Any] = {}

    def get_inputs(self) -> Any:
        return self.inner.get_inputs()

    def get_outputs(self) -> Any:
        return self.inner.get_outputs()

    def io_binding(self) -> Any:
        return self.inner.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        graph = int(options.get_run_config_entry("gpu_graph_id")) if options else -1
        self.ran.append(graph)
        if graph >= 0:
            if self.broken:
                raise RuntimeError("CUDA failure 900: operation not permitted when capturing")
            if self.exhausted:
                raise RuntimeError("CUDA failure 2: out of memory")
            binding = binding if self.real else self._captured.setdefault(graph, binding)
        self.inner.run_with_iobinding(binding, options)

    def release_captured_graph(self, graph: int) -> None:
        self.released.append(graph)
        self.inner.release_captured_graph(graph)

    @property
    def decoded(self) -> list[int]:
        """Ids of the captured graphs that ran."""
        return [graph for graph in self.ran if graph >= 0]


class TestedSession(CudaSession):
    """Runs on the CPU unless `real`.

    Attributes:
        refuses_capture: Opening the graph for capturing fails.
    """

    __test__ = False

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        real: bool = False,
        refuses_capture: bool = False,
        cuda_graphs: bool = True,
    ) -> None:
        self.real = real
        self.refuses_capture = refuses_capture
        super().__init__(
            directory,
            manifest,
            threads=1,
            cuda_graphs=cuda_graphs,
            memory=DeviceMemory("cuda" if real else "cpu"),
        )

    @property
    def recorder(self) -> Recorder:
        recorder: Any = self._session
        assert isinstance(recorder, Recorder)
        return recorder

    @property
    def mover(self) -> Recorder:
        recorder: Any = self._mover._session
        assert isinstance(recorder, Recorder)
        return recorder

    def _open(self, path: Path) -> Any:
        if self.captures and self.refuses_capture:
            raise RuntimeError("all compute graph nodes have not been partitioned to CUDA")
        if self.real:
            return Recorder(super()._open(path), real=True)
        options = session_options(1)
        inner = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return Recorder(inner, real=False)
