"""A server in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Self

from gpt2ja_bench.running.memory import peak_memory
from gpt2ja_onnx.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Sequence

_START_SECONDS = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerProcess:
    """Starts a server with its block, and kills it with the block's end.

    Args:
        command: That starts it.
        url: Of this machine, that answers with 200 once it is ready.
        log: File that takes what it prints.

    Raises:
        BenchmarkError: It ended, or did not become ready.
    """

    def __init__(self, command: Sequence[str], url: str, log: Path) -> None:
        self._url = url
        self._log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def __enter__(self) -> Self:
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def cpu_seconds(self) -> float:
        """Processor time of the process so far, all of its threads together; see proc(5)."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def peak_memory(self) -> int:
        """Most bytes that the process had in memory so far."""
        return peak_memory(self._process.pid)

    def _wait(self) -> None:
        end = time.monotonic() + _START_SECONDS
        while not self._ready():
            if self._process.poll() is not None:
                lines = self._log.read_text(errors="replace").split("\n")
                said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
                raise BenchmarkError(f"its server ended: {said.strip()}")
            if time.monotonic() > end:
                raise BenchmarkError(f"its server was not ready within {_START_SECONDS:.0f} s")
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            with _DIRECT.open(self._url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def free_port() -> int:
    """A port of this machine that nothing listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
