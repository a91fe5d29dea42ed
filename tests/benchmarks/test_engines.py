"""This project as one of the benchmark's engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpt2ja_bench.running.engines.base import Engine, Job, make_engine
from gpt2ja_bench.running.engines.table import CUDA_ENGINES, ENGINES
from gpt2ja_kernels import Kernels, load_kernels
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.bundle.demo import demo_bundle, demo_checkpoint
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


JOBS = (
    Job([[20, 21, 22]], [6], 1),
    Job([[20 + row, 21, 22] for row in range(4)], [6] * 4, 4),
    Job([[20 + row, 21, 22] for row in range(9)], [2, 7, 4] * 3, 4),  # a queue
)


def loaded(name: str, bundle: Path) -> Engine:
    spec = next(spec for spec in ENGINES if spec.id == name)
    engine = make_engine(spec.kind, spec.precision, "cpu")
    engine.load(bundle, threads=1)
    return engine


def test_no_engine_takes_a_checkpoints_own_settings() -> None:
    """The demo model's repetition penalty is one of transformers' and ours, not of the others."""
    job = Job([[100 + row, 21, 22] for row in range(4)], [24] * 4, 4, sample=False)
    torch = make_engine("gpt2ja_bench.running.engines.pytorch:Torch", "fp32", "cpu")
    torch.load(demo_checkpoint(), threads=1)
    with GPT2Ja.load(demo_bundle()) as model:
        assert model.defaults.repetition_penalty > 1
        ids = model.generate_ids(
            np.array(job.prompts), do_sample=False, repetition_penalty=1, max_new_tokens=24,
            min_new_tokens=24,
        )  # fmt: skip
    expected = ids[:, 3:].tolist()
    assert loaded("ours-int8", demo_bundle()).run(job).token_ids == expected
    same = [a == b for a, b in zip(torch.run(job).token_ids, expected, strict=True)]
    assert sum(same) >= 3  # int8 may choose another of two near tokens


def test_native_calls_are_counted(bundles: dict[str, Path]) -> None:
    kernels = load_kernels()
    assert isinstance(kernels, Kernels), kernels
    engine = loaded("ours-int8", bundles["int8"])
    assert engine.identity().kernels == kernels.instruction_set
    assert engine.identity().fingerprint.endswith(kernels.instruction_set)
    assert engine.run(JOBS[0]).native_calls == 6 * (5 * 2 + 3)  # tokens, layers, the rest
    assert all(engine.run(job).native_calls > 0 for job in JOBS)


def test_standard_kernels_are_an_engine_of_their_own(bundles: dict[str, Path]) -> None:
    assert not any(spec.by_default for spec in ENGINES if spec.id.endswith("-standard"))
    engine = loaded("ours-int8-standard", bundles["int8"])
    assert engine.identity().kernels == "standard"
    assert [engine.run(job).native_calls for job in JOBS] == [0, 0, 0]


@pytest.mark.parametrize("job", JOBS)
def test_an_engine_that_claims_native_kernels_and_ran_none_fails(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    engine = loaded("ours-int8", bundles["int8"])
    monkeypatch.setattr("gpt2ja_bench.running.engines.ours.load_kernels", lambda: "not counted")
    with pytest.raises(RuntimeError, match="made 0 native calls, expected"):
        engine.run(job)
