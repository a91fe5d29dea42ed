"""The kernels in C, held to a plain reference by a program under gcc's sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "kernels" / "src"
FLAGS = [
    "-std=gnu11", "-Og", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-psabi",
    "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{SOURCES}",
]  # fmt: skip
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]
EMULATED = [*AVX2, "-DGPT2JA_EMULATE", "-Dkernels_avx512=kernels_emulated"]
OBJECTS = {
    "avx2": (SOURCES / "avx2.c", AVX2),
    "avx512": (SOURCES / "avx512.c", AVX512),
    "emulated": (SOURCES / "avx512.c", EMULATED),
    "reference": (SOURCES / "reference.c", []),
    "processor": (SOURCES / "processor.c", []),
    "draw": (SOURCES / "draw.c", []),
    "driver": (Path(__file__).with_name("driver.c"), []),
}
ROUNDS = 100


def test_every_instruction_set_agrees_with_the_reference(tmp_path: Path) -> None:
    compilers = [
        subprocess.Popen(["gcc", *FLAGS, *flags, "-c", source, "-o", tmp_path / f"{name}.o"])
        for name, (source, flags) in OBJECTS.items()
    ]
    assert [compiler.wait() for compiler in compilers] == [0] * len(compilers)
    objects = [tmp_path / f"{name}.o" for name in OBJECTS]
    program = tmp_path / "driver"
    subprocess.run(["gcc", *FLAGS, *objects, "-lm", "-o", program], check=True)
    done = subprocess.run(
        [program, str(ROUNDS)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"avx2: {ROUNDS} rounds agree" in done.stdout
    assert f"avx512_vnni, emulated: {ROUNDS} rounds agree" in done.stdout
