"""An engine in a process of its own: called with a time limit, frozen while others are timed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from typing import TYPE_CHECKING, Any, Self

from gpt2ja_bench.running.engines.base import make_engine
from gpt2ja_bench.running.memory import peak_memory, reset_peak_memory
from gpt2ja_onnx.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from gpt2ja_bench.running.engines.spec import EngineSpec


class EngineProcess:
    """Runs an engine's methods in a child process.

    Idle engines disturb the one that is timed (their threads poll), so `freeze` stops the child
    between its turns and `call` wakes it.

    Args:
        spec: The engine.
        device: ``cpu`` or ``cuda``.
        log: File that takes what the engine prints.
    """

    def __init__(self, spec: EngineSpec, device: str, log: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._log = log
        self._process = context.Process(
            target=_serve, args=(theirs, spec, device, log), name=spec.id, daemon=True
        )
        self._process.start()
        theirs.close()

    def call(self, method: str, *arguments: Any, timeout: float) -> Any:
        """Call a method of the engine.

        Raises:
            BenchmarkError: It raised, ended its process, or did not answer in `timeout` seconds.
            NotImplementedError: The engine does not offer it.
        """
        self._signal(signal.SIGCONT)
        try:
            self._connection.send((method, arguments))
            if not self._connection.poll(timeout):
                self.close()
                raise BenchmarkError(f"{method} gave no answer within {timeout:.0f} s")
            status, value = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._process.join(5)
            code = self._process.exitcode
            hint = " (killed, perhaps for want of memory)" if code == -signal.SIGKILL else ""
            raise BenchmarkError(
                f"its process ended with exit code {code}{hint}: {self._last_line()}"
            ) from error
        if status == "unsupported":
            raise NotImplementedError
        if status == "error":
            raise BenchmarkError(value)
        return value

    def freeze(self) -> None:
        """Stop the process until the next call."""
        self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the process. Closing twice is fine."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, number)

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n") if self._log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _serve(connection: Connection, spec: EngineSpec, device: str, log: Path) -> None:
    """The child: engine methods by name, and the functions of this module."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    own: dict[str, Callable[..., Any]] = {
        "peak_memory": peak_memory,
        "reset_peak_memory": reset_peak_memory,
    }
    engine = None
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            engine = engine or make_engine(spec.kind, spec.precision, device)
            function = own.get(method) or getattr(engine, method)
            answer = ("ok", function(*arguments))
        except NotImplementedError:
            answer = ("unsupported", None)
        except Exception as error:  # whatever a peer raises becomes a row of the report
            traceback.print_exc()
            lines = str(error).strip().splitlines() or ["no message"]
            answer = ("error", f"{type(error).__name__}: {lines[0]}")
        connection.send(answer)
