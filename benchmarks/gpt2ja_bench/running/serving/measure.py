"""One server at one rate of requests."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from gpt2ja_bench.running.serving.arrivals import arrivals, warm_up
from gpt2ja_bench.running.serving.client import drive
from gpt2ja_bench.running.serving.process import ServerProcess, free_port
from gpt2ja_bench.running.serving.servers import READY, Place, command

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_bench.report import Served, Workload
    from gpt2ja_bench.running.engines.spec import EngineSpec
    from gpt2ja_bench.running.stage import Stage


def serve(
    spec: EngineSpec, workload: Workload, rate: float, stage: Stage, model: Path, log: Path
) -> tuple[Served, int]:
    """Start an engine's server anew, warm it up, and send it requests.

    Returns:
        What came of them, and the peak of the server's memory in bytes.

    Raises:
        BenchmarkError: It cannot be started, or did not answer in time.
    """
    port = free_port()
    line = command(spec, workload, Place(model, port, stage.threads))
    vocabulary = stage.shape.vocab_size
    ready = f"http://127.0.0.1:{port}{READY[spec.server]}"
    with ServerProcess(line, ready, log) as server:
        asyncio.run(drive(port, warm_up(workload, vocabulary), 0.0, stage.time_limit))
        used = server.cpu_seconds()
        requests = arrivals(workload, vocabulary, rate)
        served = asyncio.run(drive(port, requests, rate, stage.time_limit))
        used = server.cpu_seconds() - used
        return dataclasses.replace(served, server_seconds=used), server.peak_memory()
