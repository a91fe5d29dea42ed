"""Where a bundle can run, and the session that runs it there."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import warnings
from typing import TYPE_CHECKING, Literal, get_args

from gpt2ja_onnx import log
from gpt2ja_onnx.bundle.manifest import Device, Manifest
from gpt2ja_onnx.device.cpu.native import KernelChoice
from gpt2ja_onnx.device.cpu.session import CpuSession
from gpt2ja_onnx.device.cuda.driver import driver_problem
from gpt2ja_onnx.device.providers import ort
from gpt2ja_onnx.errors import ProviderError, SettingError

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_onnx.device.base import Session

DeviceChoice = Literal["auto", "cpu", "cuda"]
_PROVIDER = "CUDAExecutionProvider"


def open_session(
    directory: Path,
    manifest: Manifest,
    *,
    threads: int,
    device: DeviceChoice = "auto",
    kernels: KernelChoice = "auto",
    cuda_graphs: bool = True,
) -> tuple[Device, Session]:
    """Load a bundle's graph.

    Args:
        directory: The bundle's directory.
        manifest: Its manifest.
        threads: Threads of one operator on the CPU.
        device: ``auto`` takes the GPU for a bundle that is made for one, if it can be used.
        kernels: On the CPU, ``auto`` runs native operators where they can, and ``off``
            onnxruntime's own.
        cuda_graphs: Replay decoding from captured CUDA graphs.

    Returns:
        The device, and the session on it.

    Raises:
        SettingError: There is no such device, or no such kernels.
        BundleError: onnxruntime cannot load the graph.
        ProviderError: The bundle cannot run on the device.
    """
    if device not in get_args(DeviceChoice):
        raise SettingError(f"device must be one of {get_args(DeviceChoice)}, not {device!r}")
    if kernels not in get_args(KernelChoice):
        raise SettingError(f"kernels must be one of {get_args(KernelChoice)}, not {kernels!r}")
    found = obstacles(manifest)
    if device == "auto":
        device = _best(manifest, found)
    if (obstacle := found[device]) is not None:
        raise ProviderError(f"{directory}: cannot run on {device}: {obstacle}")
    session: Session
    if device == "cpu":
        session = CpuSession(directory, manifest, threads=threads, kernels=kernels)
    else:
        from gpt2ja_onnx.device.cuda.session import CudaSession

        session = CudaSession(directory, manifest, threads=threads, cuda_graphs=cuda_graphs)
    log.info(
        "opened %s: %s on %s with %s kernels, %d threads",
        directory, manifest.precision, device, session.kernels, threads,
    )  # fmt: skip
    return device, session


def obstacles(manifest: Manifest) -> dict[Device, str | None]:
    """Why a bundle cannot run on each device here; None where it can."""
    if manifest.graph == "portable":
        return dict.fromkeys(get_args(Device), "a portable bundle is for other tools")
    found: dict[Device, str | None] = {"cpu": None, "cuda": None}
    if manifest.precision == "bf16":
        found["cpu"] = "bf16 runs on CUDA only"
    if manifest.device != "cuda":
        found["cuda"] = "the bundle is made for the CPU; export one with --device cuda"
    else:
        found["cuda"] = cuda_problem()
    return found


@functools.cache
def cuda_problem() -> str | None:
    """Why onnxruntime cannot use a GPU here; None if it can."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if len(installed) == 2:
        return (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall both, then install 'gpt2ja-onnx[gpu]' (it runs on the CPU too)"
        )
    if _PROVIDER not in ort.get_available_providers():
        return (
            "the installed onnxruntime is for the CPU: instead of it "
            "pip install -c constraints.txt 'gpt2ja-onnx[gpu]'"
        )
    built_for = str(getattr(ort, "cuda_version", "")).partition(".")[0]
    return driver_problem(int(built_for or 0)) or _missing_libraries(built_for)


def _best(manifest: Manifest, found: dict[Device, str | None]) -> Device:
    if manifest.device == "cpu" or found["cuda"] is None:
        return manifest.device
    if found["cpu"] is not None:
        raise ProviderError(f"the bundle cannot run here: {found['cpu']}, and {found['cuda']}")
    if _PROVIDER in ort.get_available_providers():
        warnings.warn(f"running on the CPU: {found['cuda']}", RuntimeWarning, stacklevel=3)
    return "cpu"


def _missing_libraries(cuda_major: str) -> str | None:
    """Load CUDA's libraries; say which ones are not there."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:  # it tells on stdout alone
        ort.preload_dlls()
    missing = re.findall(r"^Failed to load ([^/\s]+):", printed.getvalue(), flags=re.MULTILINE)
    if not missing:
        return None
    return (
        f"libraries of CUDA {cuda_major} are missing ({', '.join(missing)}): "
        "pip install -c constraints.txt 'gpt2ja-onnx[gpu]'"
    )


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        return version(package)
    except PackageNotFoundError:
        return None
