"""Where a bundle runs, and one clear line where it does not."""

from __future__ import annotations

import ctypes
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.cli import main
from gpt2ja_onnx.device import choice
from gpt2ja_onnx.device.cuda import driver
from gpt2ja_onnx.device.cuda.memory import device_error
from gpt2ja_onnx.errors import OutOfMemoryError, ProviderError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class FakeDriver:
    """libcuda, as far as it is asked."""

    def __init__(self, version: int, devices: int, status: int = 0) -> None:
        self.version, self.devices, self.status = version, devices, status

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.status

    def cuDriverGetVersion(self, target: Any) -> None:  # noqa: N802
        target._obj.value = self.version

    def cuDeviceGetCount(self, target: Any) -> None:  # noqa: N802
        target._obj.value = self.devices


class GpuBuild:
    """An onnxruntime-gpu for CUDA 13 in place of what is installed."""

    cuda_version = "13.0"

    def __init__(self, printed: str = "") -> None:
        self.printed = printed

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        print(self.printed)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    choice.cuda_problem.cache_clear()
    yield
    choice.cuda_problem.cache_clear()


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(choice, "ort", GpuBuild())
    monkeypatch.setattr(choice, "_version", {"onnxruntime-gpu": "1.31.1"}.get)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(13000, 1))
    return monkeypatch


def test_a_whole_installation_has_no_problem(gpu_build: pytest.MonkeyPatch) -> None:
    assert choice.cuda_problem() is None


def test_both_builds_of_onnxruntime(gpu_build: pytest.MonkeyPatch) -> None:
    gpu_build.setattr(choice, "_version", lambda name: "1.31.1")
    assert "onnxruntime and onnxruntime-gpu are both installed" in str(choice.cuda_problem())


def test_the_build_for_the_cpu(gpu_build: pytest.MonkeyPatch) -> None:
    cpu = SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"])
    gpu_build.setattr(choice, "ort", cpu)
    assert "pip install -c constraints.txt 'gpt2ja-onnx[gpu]'" in str(choice.cuda_problem())


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert "there is no NVIDIA driver here" in str(driver.driver_problem(13))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (FakeDriver(12080, 1), "is for CUDA 12.8, the installed onnxruntime-gpu for CUDA 13"),
        (FakeDriver(13000, 0), "sees no GPU"),
        (FakeDriver(13000, 1, status=100), "does not start (cuInit gives 100)"),
    ],
)
def test_a_driver_that_does_not_fit(
    gpu_build: pytest.MonkeyPatch, found: FakeDriver, message: str
) -> None:
    gpu_build.setattr(ctypes, "CDLL", lambda name: found)
    assert message in str(choice.cuda_problem())


def test_missing_libraries_are_named_and_stdout_stays_clean(
    gpu_build: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What onnxruntime-gpu 1.31.1 printed; the first line was made good by the default path.
    printed = (
        "Failed to load /env/nvidia/cu13/lib/libcurand.so.10: no such file\n"
        "Failed to load libcublasLt.so.13: libcublasLt.so.13: cannot open shared object file\n"
        "Failed to load libcublas.so.13: libcublas.so.13: cannot open shared object file\n"
    )
    gpu_build.setattr(choice, "ort", GpuBuild(printed))
    problem = str(choice.cuda_problem())
    assert "libraries of CUDA 13 are missing (libcublasLt.so.13, libcublas.so.13)" in problem
    assert capsys.readouterr().out == ""


def test_auto_takes_the_cpu_and_says_why(
    gpu_build: pytest.MonkeyPatch, cuda_bundle: Path, bundles: dict[str, Path]
) -> None:
    gpu_build.setattr(ctypes, "CDLL", lambda name: FakeDriver(12080, 1))
    with (
        pytest.warns(RuntimeWarning, match=r"running on the CPU: the NVIDIA driver is for CUDA 12"),
        GPT2Ja.load(cuda_bundle) as model,
    ):
        assert model.device == "cpu"
    with GPT2Ja.load(bundles["int8"]) as model:  # made for the CPU: nothing to say
        assert model.device == "cpu"


def test_devices_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, cuda_bundle: Path, bundles: dict[str, Path]
) -> None:
    monkeypatch.setattr(choice, "cuda_problem", lambda: "there is no GPU")
    with pytest.raises(ProviderError, match=r"fp16: cannot run on cuda: there is no GPU"):
        GPT2Ja.load(cuda_bundle, device="cuda")
    with pytest.raises(ProviderError, match="is made for the CPU; export one with --device cuda"):
        GPT2Ja.load(bundles["int8"], device="cuda")
    with pytest.raises(SettingError, match="device must be one of"):
        GPT2Ja.load(cuda_bundle, device="tpu")  # type: ignore[arg-type]
    manifest = read_manifest(cuda_bundle)
    object.__setattr__(manifest, "precision", "bf16")
    with pytest.raises(ProviderError, match="bf16 runs on CUDA only, and there is no GPU"):
        choice.open_session(cuda_bundle, manifest, threads=1)


def test_the_commands_say_where_a_bundle_runs(
    monkeypatch: pytest.MonkeyPatch, cuda_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "cuda_problem", lambda: "there is no GPU")

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return int(ended.value.code or 0)

    assert run("inspect", "--model", cuda_bundle) == 0
    shown = capsys.readouterr().out
    assert "runs here on cpu              yes" in shown
    assert "runs here on cuda             no: there is no GPU" in shown
    assert run("inspect", "--model", cuda_bundle, "--format", "json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["obstacles"] == {"cpu": None, "cuda": "there is no GPU"}
    for command in ("generate", "score"):
        assert run(command, "朝の", "--model", cuda_bundle, "--device", "cuda") == 1
        assert "cannot run on cuda: there is no GPU" in capsys.readouterr().err
        assert run(command, "朝の", "--model", cuda_bundle, "--device", "cpu") == 0
        assert "朝の" in capsys.readouterr().out


@pytest.mark.filterwarnings("always")
def test_warnings_are_one_line(
    gpu_build: pytest.MonkeyPatch, cuda_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu_build.setattr(ctypes, "CDLL", lambda name: FakeDriver(13000, 0))
    with pytest.raises(SystemExit):
        main(["generate", "朝の", "--model", str(cuda_bundle), "--max-new-tokens", "1"])
    assert capsys.readouterr().err == (
        "warning: running on the CPU: the NVIDIA driver sees no GPU\n"
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc:376 AllocateRawInternal "
            "Failed to allocate memory for requested buffer of size 939524096",
            OutOfMemoryError,
        ),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemoryError),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", OutOfMemoryError),
        ("CUDA failure 700: an illegal memory access was encountered", ProviderError),
    ],
)
def test_errors_of_onnxruntime_are_told_apart(text: str, kind: type[Exception]) -> None:
    assert type(device_error(RuntimeError(text))) is kind
