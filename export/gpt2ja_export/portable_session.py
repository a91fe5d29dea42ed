"""Optimum's own graph behind the fused graph's interface, so that one verification serves both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.device.base import HostLogits, Scores
from gpt2ja_onnx.device.cpu.cache import CpuCache
from gpt2ja_onnx.device.cpu.native import STANDARD
from gpt2ja_onnx.device.log_normaliser import log_normalisers
from gpt2ja_onnx.device.providers import ort

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from gpt2ja_onnx.bundle.manifest import Manifest, ModelShape


class PortableSession:
    """Runs a portable bundle as a session runs a fused one, but slowly and row by row."""

    kernels = STANDARD
    prompt_tokens = call_tokens = 1024

    def __init__(self, directory: Path, manifest: Manifest, *, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            str(directory / names.MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )
        self.shape = manifest.shape

    def new_cache(self) -> CpuCache:
        """See `gpt2ja_onnx.device.base.Session`."""
        return CpuCache(self)

    def plan(
        self, caches: Sequence[NDArray[np.generic]], rows: int, new: int, positions: int
    ) -> PortablePlan:
        """See `gpt2ja_onnx.device.cpu.cache.Planner`."""
        return PortablePlan(self._session, self.shape, rows, new, positions, caches)

    def decode_plans(self, caches: Sequence[NDArray[np.generic]]) -> Callable[[int], PortablePlan]:
        """See `gpt2ja_onnx.device.cpu.cache.Planner`."""
        return lambda rows: self.plan([part[:rows] for part in caches], rows, 1, 1)


class PortablePlan:
    """One call of Optimum's graph."""

    def __init__(
        self,
        session: ort.InferenceSession,
        shape: ModelShape,
        rows: int,
        new: int,
        positions: int,
        caches: Sequence[NDArray[np.generic]],
    ) -> None:
        self._session = session
        self._caches = caches
        self.input_ids = np.zeros((rows, new), dtype=np.int64)
        self.position_ids = np.zeros((rows, new), dtype=np.int64)
        self.logit_positions = np.zeros((rows, positions), dtype=np.int64)
        self.lengths = np.zeros(rows, dtype=np.int32)
        self.logits = np.zeros((rows, positions, shape.vocab_size), dtype=np.float32)

    def run(self) -> None:
        """Run every row, with its cached tokens in front of its new ones."""
        for row, length in enumerate(self.lengths):
            past = int(self.position_ids[row, 0])
            new = int(length) - past
            feeds: dict[str, Any] = {
                "input_ids": self.input_ids[row : row + 1, :new],
                "position_ids": self.position_ids[row : row + 1, :new],
                "attention_mask": np.ones((1, length), dtype=np.int64),
            }
            outputs = [names.LOGITS]
            for index, cache in enumerate(self._caches):
                layer, part = divmod(index, 2)
                name = names.CACHE_PARTS[part]
                feeds[f"past_key_values.{layer}.{name}"] = cache[row : row + 1, :, :past]
                outputs.append(names.present_name(layer, name))
            logits, *present = self._session.run(outputs, feeds)
            for cache, values in zip(self._caches, present, strict=True):
                cache[row, :, :length] = values[0]
            wanted = np.minimum(self.logit_positions[row], new - 1)
            self.logits[row] = logits[0, wanted]

    def scores(self) -> Scores:
        """See `gpt2ja_onnx.device.base.Plan`."""
        scores, ids = self.all_candidates()
        return Scores(scores[:, 0], ids[:, 0], HostLogits(self.logits[:, 0]))

    def all_logits(self) -> NDArray[np.float32]:
        """See `gpt2ja_onnx.device.base.Plan`."""
        return self.logits

    def log_normalisers(self) -> NDArray[np.float64]:
        """See `gpt2ja_onnx.device.base.Plan`."""
        return log_normalisers(self.logits)

    def all_candidates(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `gpt2ja_onnx.device.base.Plan`; every token is a candidate."""
        ids = np.broadcast_to(np.arange(self.logits.shape[2]), self.logits.shape)
        order = np.lexsort((ids, -self.logits))
        return np.take_along_axis(self.logits, order, axis=2), order
