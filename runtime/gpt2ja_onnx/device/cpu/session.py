"""The fused graph in onnxruntime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_onnx import log
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.device.cpu.cache import CpuCache
from gpt2ja_onnx.device.cpu.features import int8_products_saturate
from gpt2ja_onnx.device.cpu.native import STANDARD, native_operators
from gpt2ja_onnx.device.cpu.plan import Buffers, CpuPlan
from gpt2ja_onnx.device.graph_file import check_inputs, environment, load_graph, session_options
from gpt2ja_onnx.device.providers import ort

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from gpt2ja_onnx.bundle.manifest import Manifest
    from gpt2ja_onnx.device.cpu.native import KernelChoice


# Of onnxruntime's two attentions on the CPU the plain one is faster for what runs here, single
# tokens and pieces of prompts, and gives a token the same bits in any piece but one of its own.
# It is asked for by a variable of the process, read while a session is made.
_PLAIN_ATTENTION = "ORT_GQA_DISABLE_FLASH_ATTENTION"


class CpuSession:
    """Implements `gpt2ja_onnx.device.base.Session` on the CPU.

    Args:
        directory: The bundle's directory.
        manifest: Its manifest.
        threads: Threads of one operator.
        kernels: ``auto`` runs native operators where they can; ``off`` onnxruntime's own.

    Raises:
        BundleError: onnxruntime cannot load the graph, or its tensors are not the contract's.
        SettingError: `threads` is below 1.

    Attributes:
        prompt_tokens: As in the contract. The attention of a call looks from every new token at
            all new ones, later ones included, so longer pieces cost more.
        call_tokens: As in the contract. More are not faster, and the attention's scores take more
            memory.
        kernels: As in the contract: the native operators' instruction set, or ``standard``.
    """

    prompt_tokens = 128
    call_tokens = 512

    def __init__(
        self, directory: Path, manifest: Manifest, *, threads: int, kernels: KernelChoice = "auto"
    ) -> None:
        self.manifest = manifest
        self.shape = manifest.shape
        options = session_options(threads)
        native = native_operators(manifest, kernels)
        self.kernels, self._native = STANDARD, None
        if not isinstance(native, str):
            self.kernels, self._native = native.instruction_set, native
            options.register_custom_ops_library(str(native.path))
        else:
            if manifest.precision in ("int8", "int4"):
                log.info("%s: native operators do not run: %s", directory, native)
            if manifest.quantization and int8_products_saturate():
                # onnxruntime replaces int8 weights by uint8 ones, whose products are exact, in one
                # of its extended optimisations.
                options.add_session_config_entry("session.x64quantprecision", "1")
                options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED

        def open_graph(path: Path) -> ort.InferenceSession:
            with environment(_PLAIN_ATTENTION, "1"):
                return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        path = directory / names.MODEL_FILE
        self._session = load_graph(path, open_graph)
        check_inputs(self._session, self.shape, path)

    def new_cache(self) -> CpuCache:
        """See `gpt2ja_onnx.device.base.Session`."""
        return CpuCache(self)

    def plan(
        self, caches: Sequence[NDArray[np.generic]], rows: int, new: int, positions: int
    ) -> CpuPlan:
        """A call over `caches`; see `gpt2ja_onnx.device.base.Cache.plan`."""
        buffers = Buffers.allocate(self.manifest, rows, new, positions)
        return CpuPlan(self._session, self.manifest, buffers, caches, self._native)

    def decode_plans(self, caches: Sequence[NDArray[np.generic]]) -> Callable[[int], CpuPlan]:
        """Calls with one token per row, by the number of rows: slices of the same buffers."""
        buffers = Buffers.allocate(self.manifest, len(caches[0]), 1, 1)
        plans: dict[int, CpuPlan] = {}

        def plan(rows: int) -> CpuPlan:
            if rows not in plans:
                slices = [part[:rows] for part in caches]
                plans[rows] = CpuPlan(
                    self._session, self.manifest, buffers.first(rows), slices, self._native
                )
            return plans[rows]

        return plan
