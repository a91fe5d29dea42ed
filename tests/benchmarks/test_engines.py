"""This project as one of the benchmark's engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpt2ja_bench.running.engines.base import make_engine
from gpt2ja_bench.running.engines.table import CUDA_ENGINES
from gpt2ja_onnx.errors import ProviderError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_comparison_on_a_gpu_never_times_the_cpu(
    cuda_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2ja_onnx.device.choice.cuda_problem", lambda: "there is no GPU")
    spec = next(spec for spec in CUDA_ENGINES if spec.id == "ours-fp16")
    engine = make_engine(spec.kind, spec.precision, "cuda")
    with pytest.raises(ProviderError, match="cannot run on cuda: there is no GPU"):
        engine.load(cuda_bundle, threads=1)
