"""A server of the demo model in a thread of the test's process, or in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from gpt2ja_serve.server import Server
from gpt2ja_serve.settings import ServeSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpt2ja_onnx import GPT2Ja

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        url: Where it is.
        client: A client of it.
        server: It, where it runs in this process.
        process: Its process, where it has one.
    """

    url: str
    client: httpx.Client
    server: Server | None = None
    process: subprocess.Popen[str] | None = None

    @property
    def model(self) -> GPT2Ja:
        assert self.server is not None
        return self.server.service.model

    def complete(self, **body: Any) -> httpx.Response:
        return self.client.post("/v1/completions", json=body)

    def texts(self, **body: Any) -> list[str]:
        answer = self.complete(**body)
        assert answer.status_code == 200, answer.text
        return [choice["text"] for choice in answer.json()["choices"]]

    def metric(self, name: str) -> float:
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"gpt2ja_{name}{{"):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"there is no metric {name}")

    @property
    def rows(self) -> tuple[int, int]:
        """Sequences that run, and that wait."""
        if self.server is None:
            running, waiting = map(self.metric, ("num_requests_running", "num_requests_waiting"))
            return int(running), int(waiting)
        now = self.model.statistics()
        return now.running, now.waiting

    def wait_idle(self, seconds: float = 10) -> None:
        """Wait until no row is taken and nothing waits."""
        wait_for(lambda: self.rows == (0, 0), seconds)


def wait_for(condition: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@contextlib.contextmanager
def in_thread(**settings: Any) -> Iterator[Running]:
    """A server in a thread, which is ended with the block."""
    server = Server(ServeSettings(**{"port": 0, "access_log": False} | settings))
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[server.listener])), daemon=True
    )
    thread.start()
    try:
        with _client(server.address, server.settings.keys) as client:
            wait_for(lambda: _ready(client), 30)
            yield Running(server.address, client, server=server)
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()
    assert server.failure is None


@contextlib.contextmanager
def in_process(*options: str, environment: dict[str, str] | None = None) -> Iterator[Running]:
    """The command in a process of its own, which is killed with the block if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt2ja_onnx.cli", "serve", "--port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    try:
        lines: list[str] = []
        while " at http" not in (line := process.stderr.readline()):
            lines.append(line)
            assert line, "".join(lines)
        url = line.rsplit(" ", 1)[1].strip()
        with _client(url, ()) as client:
            yield Running(url, client, process=process)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _client(url: str, keys: tuple[str, ...]) -> httpx.Client:
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
    # A connection that was kept may be closed while the next request is under way.
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(base_url=url, timeout=60, headers=headers, trust_env=False, limits=limits)


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False
