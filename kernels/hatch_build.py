"""Builds the native operators' library for wheels and editable installs; also by hand.

With zig's C compiler (the ``ziglang`` wheel) every machine builds the same code, for any Linux
with glibc 2.17 or newer. ``GPT2JA_CC`` names another compiler. Where none of them works the
package is installed without the library and runs onnxruntime's own operators.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_HERE = Path(__file__).parent
LIBRARY = _HERE / "gpt2ja_kernels" / "_kernels.so"
_COMPILER_VARIABLE = "GPT2JA_CC"
_ZIG = "ziglang>=0.15"
_TARGET = "x86_64-linux-gnu.2.17"
# Without contraction all compilers make the same bits.
_FLAGS = ["-std=c11", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wno-psabi"]
_AVX2 = ["-mavx2", "-mfma"]
_INSTRUCTION_SETS = {
    "avx2.c": _AVX2,
    "avx512.c": [*_AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni"))],
}
_ONLY_TESTED = "reference.c"


def supported() -> bool:
    """Whether there are operators for this platform."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def compiler() -> list[str]:
    """The command that compiles."""
    if chosen := os.environ.get(_COMPILER_VARIABLE):
        return shlex.split(chosen)
    return [sys.executable, "-m", "ziglang", "cc", "-target", _TARGET, "-fno-sanitize=all"]


def build_library(target: Path = LIBRARY) -> None:
    """Compile the library.

    Raises:
        OSError: The compiler is not there.
        subprocess.CalledProcessError: It failed.
    """
    command = compiler()
    sources = [path for path in (_HERE / "src").glob("*.c") if path.name != _ONLY_TESTED]
    with tempfile.TemporaryDirectory() as directory:
        started = []
        for source in sources:
            flags = [*_FLAGS, *_INSTRUCTION_SETS.get(source.name, [])]
            output = Path(directory, f"{source.stem}.o")
            arguments = [*command, *flags, "-c", str(source), "-o", str(output)]
            started.append((output, arguments, subprocess.Popen(arguments)))
        ended = [(process.wait(), arguments) for _, arguments, process in started]
        for code, arguments in ended:
            if code:
                raise subprocess.CalledProcessError(code, arguments)
        made = Path(directory, target.name)
        objects = [str(output) for output, _, _ in started]
        subprocess.run([*command, "-shared", "-s", *objects, "-o", str(made)], check=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        beside.write_bytes(made.read_bytes())
        beside.chmod(0o755)
        beside.replace(target)  # a process that has the old one mapped keeps it


class KernelsBuildHook(BuildHookInterface[Any]):
    """Puts the library into what hatchling builds."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What building needs, beyond hatchling."""
        return [_ZIG] if supported() and not os.environ.get(_COMPILER_VARIABLE) else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name the wheel after what is in it."""
        if self.target_name != "wheel" or not supported():
            return
        try:
            build_library()
        except (OSError, subprocess.CalledProcessError) as error:
            if version == "editable":
                LIBRARY.unlink(missing_ok=True)  # it is not what the sources say
            self.app.display_warning(f"building without native operators: {error}")
            return
        build_data["artifacts"].append(str(LIBRARY.relative_to(self.root)))
        build_data["pure_python"] = False
        zig = not os.environ.get(_COMPILER_VARIABLE)
        build_data["tag"] = f"py3-none-{'manylinux_2_17' if zig else 'linux'}_x86_64"


def main() -> None:
    """Compile for an editable install, or exit with a line."""
    if not supported():
        print("there are no native operators for this platform")
        return
    try:
        build_library()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"the native operators cannot be built: {error}")


if __name__ == "__main__":
    main()
