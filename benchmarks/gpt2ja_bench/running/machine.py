"""What the machine can do: `measure` runs this module in a fresh process for its rates."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2ja_bench.report import Machine, Rates
from gpt2ja_kernels import load_kernels

if TYPE_CHECKING:
    from collections.abc import Callable

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_READ_BYTES = 256 << 20
_SIDE = 2048
_REPEATS = 7


def measure(threads: int) -> Machine:
    """The CPU, its reading speed and its rates of products with `threads` threads."""
    rates = _in_a_process(threads, *_RATES)
    kernels = load_kernels()
    information = Path("/proc/cpuinfo").read_text()
    pairs = (line.partition(":") for line in information.splitlines())
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    flags = fields.get("flags", "").split()
    return Machine(
        name=fields.get("model name", platform.processor()),
        flags=tuple(flag for flag in _FLAGS if flag in flags),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        kernels=kernels if isinstance(kernels, str) else kernels.instruction_set,
        **rates,
    )


def with_higher_rates(one: Machine, other: Machine) -> Machine:
    """`one`, with the higher of both measurements of each rate."""
    return replace(one, **{name: max(getattr(one, name), getattr(other, name)) for name in _RATES})


def measure_again(workload: str, threads: int) -> Rates:
    """What integer steps are held against, now: others use a shared machine more or less."""
    return Rates(workload, **_in_a_process(threads, "bandwidth", "integer_rate"))


def _in_a_process(threads: int, *wanted: str) -> dict[str, float]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    found = subprocess.run(
        [sys.executable, "-m", "gpt2ja_bench.running.machine", str(threads), *wanted],
        env=os.environ | dict.fromkeys(names, str(threads)),
        capture_output=True,
        text=True,
        check=True,
    )
    rates: dict[str, float] = json.loads(found.stdout)
    return rates


def _bandwidth(threads: int) -> float:
    """Bytes a second: the best of several passes over memory that no cache holds.

    A maximum is sought, which reads as fast as it can; a sum of fp32 does not.
    """
    import numpy as np

    parts = [np.ones(_READ_BYTES // 4, dtype=np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(lambda part: np.maximum.reduce(part), parts)))
    return threads * _READ_BYTES / seconds


def _matrix_rate(threads: int) -> float:
    """Operations a second: the best of several fp32 products, in numpy's own threads."""
    import numpy as np

    left = np.ones((_SIDE, _SIDE), dtype=np.float32)
    return 2 * _SIDE**3 / _best(lambda: left @ left)


def _integer_rate(threads: int) -> float:
    """Operations a second: the best of several runs of the native operators' own loop."""
    kernels = load_kernels()
    if isinstance(kernels, str):
        return 0.0
    with ThreadPoolExecutor(threads) as pool:
        products = max(
            sum(pool.map(lambda _: kernels.multiply_rate(), range(threads)))
            for _ in range(_REPEATS)
        )
    return 2 * products


def _best(function: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


_RATES: dict[str, Callable[[int], float]] = {
    "bandwidth": _bandwidth,
    "matrix_rate": _matrix_rate,
    "integer_rate": _integer_rate,
}


def main() -> None:
    """Print the rates that are asked for as JSON."""
    threads, *wanted = sys.argv[1:]
    print(json.dumps({name: _RATES[name](int(threads)) for name in wanted}))


if __name__ == "__main__":
    main()
