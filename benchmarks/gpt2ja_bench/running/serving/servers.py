"""How each engine's HTTP server is started."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2ja_bench.report import Workload
    from gpt2ja_bench.running.engines.spec import EngineSpec

LLAMA_SERVER = "llama-server"
READY = {"gpt2ja": "/ready", "llama.cpp": "/health"}  # answers with 200 once the model is loaded
_GRAIN = 256  # positions that llama.cpp's cache is rounded up to
_LONGEST = 128  # positions that a request may take: a prompt and the longest text


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs.

    Attributes:
        model: Directory of its model.
        port: Of this machine.
        threads: That it may compute with.
    """

    model: Path
    port: int
    threads: int


def missing(spec: EngineSpec) -> str | None:
    """Why an engine's server cannot run here, and what to do; None if it can."""
    if spec.server == "gpt2ja" and find_spec("uvicorn") is None:
        return "uvicorn is not installed: pip install 'gpt2ja-onnx[serve]'"
    if spec.server == "llama.cpp" and _llama_server() is None:
        return f"{LLAMA_SERVER} is not installed: make llama-server builds it"
    return None


def command(spec: EngineSpec, workload: Workload, place: Place) -> list[str]:
    """The command that starts an engine's server, with the same limits for everyone."""
    return (_llama_cpp if spec.server == "llama.cpp" else _gpt2ja)(spec, workload, place)


def _gpt2ja(spec: EngineSpec, workload: Workload, place: Place) -> list[str]:
    return [
        *(sys.executable, "-m", "gpt2ja_onnx.cli", "serve", "--quiet"),
        *("--model", str(place.model), "--model-name", "bench"),
        *("--port", str(place.port), "--threads", str(place.threads)),
        *("--batch-size", str(workload.rows)),
        *("--kernels", "off" if spec.precision.endswith(" standard") else "auto"),
    ]


def _llama_server() -> str | None:
    beside = Path(sys.executable).with_name(LLAMA_SERVER)
    return str(beside) if beside.exists() else shutil.which(LLAMA_SERVER)


def _llama_cpp(spec: EngineSpec, workload: Workload, place: Place) -> list[str]:
    program = _llama_server()
    assert program, missing(spec)
    positions = -(-_LONGEST // _GRAIN) * _GRAIN
    return [
        *(program, "--host", "127.0.0.1", "--port", str(place.port)),
        *("--model", str(place.model / "model.gguf"), "--alias", "bench"),
        *("--threads", str(place.threads), "--threads-batch", str(place.threads)),
        *("--parallel", str(workload.rows), "--ctx-size", str(workload.rows * positions)),
        *("--no-webui", "--log-disable"),
    ]
