"""``gpt2ja-onnx diagnose``: what a report of a fault needs, from one call.

The bundle runs in a process of its own, whose output tells which attention onnxruntime chose, and
whose crash is an answer too.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from gpt2ja_onnx.bundle.hub import open_bundle
from gpt2ja_onnx.cli.environment import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpt2ja_onnx.device.choice import DeviceChoice

_ROWS = (1, 8)
_PROMPT, _STEPS = 16, 32
_GPU_FIELDS = ("name", "driver_version", "compute_cap", "memory.total", "memory.used")
# Makes onnxruntime's CUDA provider print the kernel of each attention node: SdpaKernel=….
_TELL_ATTENTION = "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO"


@click.command("diagnose")
@click.option("--model", type=click.Path(path_type=Path), help="Bundle.  [default: demo model]")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
def command(model: Path | None, device: str) -> int:
    """Run a bundle here, and say everything that a report of a fault needs."""
    from gpt2ja_onnx.device.choice import cuda_problem

    directory = open_bundle(model)
    here = environment() | {"gpu": _gpu() or "none that nvidia-smi knows"}
    _show(here | {"cuda": cuda_problem() or "yes", "bundle": directory})
    code = f"from {__name__} import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(directory), device],
        env=os.environ | {_TELL_ATTENTION: "1"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            _show(json.loads(line))
    if kernels := sorted(set(re.findall(r"SdpaKernel=(\w+)", done.stdout))):
        _show({"attention": ", ".join(kernels)})
    if done.returncode:
        _show({"ended with": f"exit code {done.returncode}"})
        click.echo(done.stderr.rstrip(), err=True)
    return int(done.returncode != 0)


def run() -> None:
    """In a process of its own: open a bundle, run it, and print a line of JSON for each part."""
    from gpt2ja_onnx.bundle.manifest import read_manifest
    from gpt2ja_onnx.device.choice import open_session
    from gpt2ja_onnx.device.threads import available_threads

    directory, device = sys.argv[1:]
    before = _memory()
    started = time.perf_counter()
    manifest = read_manifest(Path(directory), verify_hashes=True)
    chosen, session = open_session(
        Path(directory),
        manifest,
        threads=available_threads(),
        device=cast("DeviceChoice", device),
    )
    _tell(
        {
            "runs on": f"{chosen}, {manifest.precision}, {session.kernels} kernels",
            "opened in": f"{time.perf_counter() - started:.3f} s",
        }
    )
    cache = session.new_cache()
    for rows in _ROWS:
        cache.reserve(rows, _PROMPT + _STEPS, 0, None)
        prompt = cache.plan(0, rows, _PROMPT, 1)
        prompt.input_ids[...] = 9
        prompt.position_ids[...] = range(_PROMPT)
        prompt.lengths[...] = _PROMPT
        prompt.logit_positions[...] = _PROMPT - 1
        prompt.run()
        step = cache.decode_plan(rows)
        seconds = []
        for length in range(_PROMPT + 1, _PROMPT + _STEPS + 1):
            step.input_ids[...] = 9
            step.position_ids[...] = length - 1
            step.lengths[...] = length
            begun = time.perf_counter()
            step.run()
            broken = not step.scores().candidates[:, 0].max() < float("inf")  # NaN too
            seconds.append(time.perf_counter() - begun)
            if broken:
                _tell({f"step of {rows} rows": f"scores that are not finite at {length} tokens"})
                break
        else:
            took = f"{1000 * statistics.median(seconds):.2f} ms, median of {len(seconds)}"
            _tell({f"step of {rows} rows": took})
    captured = getattr(session, "captured", None)
    if captured is not None:
        _tell({"CUDA graphs captured": captured})
    _tell({"memory": f"{before}; with the bundle {_memory()}"})


def _tell(part: dict[str, Any]) -> None:
    print(json.dumps(part), flush=True)


def _show(part: dict[str, Any]) -> None:
    for name, value in part.items():
        click.echo(f"{name:<30}{value}")


def _memory() -> str:
    """What this process and the GPU hold now."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    resident = re.search(r"VmRSS:\s*(\d+)", status)
    parts = [f"process {int(resident.group(1)) // 1024} MiB"] if resident else []
    return ", ".join([*parts, *(f"GPU {used}" for used in _asked(("memory.used",)))])


def _gpu() -> str:
    """Every GPU in a line, as nvidia-smi knows it."""
    return "; ".join(_asked(_GPU_FIELDS))


def _asked(fields: tuple[str, ...]) -> Iterator[str]:
    query = ("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return
    if done.returncode == 0:
        yield from (line.strip() for line in done.stdout.splitlines() if line.strip())
