"""``make llama-server``: llama.cpp's HTTP server of the version that llama-cpp-python has inside.

The wheel of llama-cpp-python holds llama.cpp's library alone; its source distribution has the
server's sources as well.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpt2ja_bench.running.serving.servers import LLAMA_SERVER
from gpt2ja_onnx.device.threads import available_threads
from gpt2ja_onnx.errors import BenchmarkError

_PACKAGE = "llama-cpp-python"
# One program without libraries beside it, and nothing that is fetched while it is built.
_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
}


def build(target: Path) -> None:
    """Build the server from the source distribution, some twenty minutes of a processor.

    Args:
        target: The program.

    Raises:
        BenchmarkError: Something that building needs is missing, or it failed.
    """
    try:
        package = f"{_PACKAGE}=={version(_PACKAGE)}"
    except PackageNotFoundError as error:
        raise BenchmarkError(
            f"{_PACKAGE} is not installed: pip install 'gpt2ja-onnx[bench,bench-llama-cpp]'"
        ) from error
    if shutil.which("cmake") is None:
        raise BenchmarkError("cmake is not installed: pip install cmake, or apt install cmake")
    with tempfile.TemporaryDirectory(prefix="gpt2ja-llama.") as directory:
        place = Path(directory)
        download = ("download", "--no-deps", "--no-binary", _PACKAGE, "--dest", directory, package)
        _run(sys.executable, "-m", "pip", *download)
        with tarfile.open(next(place.glob("*.tar.gz"))) as archive:
            archive.extractall(place, filter="data")
        sources = next(place.glob("*/vendor/llama.cpp"))
        options = (f"-D{name}={value}" for name, value in _OPTIONS.items())
        _run("cmake", "-S", str(sources), "-B", str(place / "build"), *options)
        jobs = ("--target", LLAMA_SERVER, "--parallel", str(available_threads()))
        _run("cmake", "--build", str(place / "build"), *jobs)
        shutil.copy2(place / "build" / "bin" / LLAMA_SERVER, target)


def _run(*command: str) -> None:
    code = subprocess.run(command, check=False).returncode
    if code:
        raise BenchmarkError(f"{' '.join(command[:4])} … ended with exit code {code}")


def main() -> None:
    """Build it beside this Python, where the benchmark looks for it."""
    try:
        build(Path(sys.executable).with_name(LLAMA_SERVER))
    except BenchmarkError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
