"""Engines on a Ray cluster: actors that compute chunks of rows, replaced when they die."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from gpt2ja_onnx.bundle.hub import open_bundle
from gpt2ja_onnx.errors import BatchError, Gpt2jaError
from gpt2ja_serve.batch.actor import PACKAGE, Actor, read_bundle
from gpt2ja_serve.batch.execution import EngineLostError, Shared

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from gpt2ja_serve.batch.actor import EngineSettings
    from gpt2ja_serve.batch.rows import JobKind, Row
    from gpt2ja_serve.batch.work import Found

_LOCAL = "local"
_REACHED = 5.0  # seconds in which a cluster must answer
_MOST_STARTS = 4  # of an engine, one after another, that die before they are ready
_PATIENCE = 30.0  # seconds without a worker after which the wait is told


class RayCluster:
    """Implements `gpt2ja_serve.batch.execution.Executor` by actors.

    Rows are read and results written here; workers need this package alone. What a worker computes
    does not depend on it, so a chunk whose worker died is given to another.

    Args:
        settings: Of each engine. Its threads are the processors that an actor is lent.
        workers: How many; None for as many as the cluster's processors now are enough for.
        address: Of the cluster; None starts one on this machine.

    Raises:
        BatchError: There is no cluster at the address, or a worker cannot run the job.
    """

    def __init__(
        self, settings: EngineSettings, *, workers: int | None = None, address: str | None = None
    ) -> None:
        self._engines: list[_Remote] = []
        self._start = _Start(settings)
        self._shared = Shared([], settings.chunk_rows)
        self._owner = _connect(address)
        try:
            processors = int(_processors())
            self._workers = workers or max(processors // settings.threads, 1)
            self.cores = self._workers * settings.threads
            if address is not None:
                place = open_bundle(settings.model, cuda=settings.device == "cuda")
                self._start.bundle = ray.put(read_bundle(place))
            self._engines = [_Remote(self._start) for _ in range(self._workers)]
            self.fingerprint = self._first(processors)
        except BaseException:
            self.close()
            raise

    @property
    def retries(self) -> int:
        """See `Executor`."""
        return self._shared.retries

    def outcomes(self, kind: JobKind, rows: Iterable[Row]) -> Generator[tuple[Row, Found]]:
        """See `Executor`."""
        return self._shared.outcomes(kind, rows, self._workers)

    def close(self) -> None:
        """See `Executor`."""
        self._start.closed = True
        for engine in self._engines:
            engine.end()
        self._shared.close()
        if self._owner:
            ray.shutdown()

    def _first(self, processors: int) -> str:
        """The fingerprint of the first worker; the others must have it too."""
        ready = threading.Event()

        def add(engine: _Remote) -> None:
            try:
                engine.revive()
            except Exception as error:
                self._start.problem = error
                self._shared.fail(error)
            else:
                self._shared.add(engine)
            ready.set()

        for engine in self._engines:
            threading.Thread(target=add, args=(engine,), daemon=True).start()
        if not ready.wait(_PATIENCE):
            wanted = self._workers * self._start.settings.threads
            click.echo(
                f"note: no worker yet: {self._workers} want {wanted} processors, the cluster has "
                f"{processors}; waiting for them",
                err=True,
            )
        while not ready.wait(1.0):
            pass
        if self._start.problem is not None:
            raise self._start.problem
        assert self._start.fingerprint is not None
        return self._start.fingerprint


class _Start:
    """What all workers start with, and must agree on."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.bundle: Any = None  # in Ray's object store; None where it is read at its path
        self.fingerprint: str | None = None
        self.problem: Exception | None = None
        self.closed = False
        self._lock = threading.Lock()

    def agree(self, fingerprint: str) -> None:
        """Hold a worker to what the first one is.

        Raises:
            BatchError: It would write other texts.
        """
        with self._lock:
            self.fingerprint = self.fingerprint or fingerprint
        if fingerprint != self.fingerprint:
            raise BatchError(
                f"a worker's fingerprint is {fingerprint}, that of others {self.fingerprint}; use "
                "machines with the same kind of processor and the same onnxruntime"
            )


class _Remote:
    """Implements `gpt2ja_serve.batch.execution.Engine` by an actor."""

    def __init__(self, start: _Start) -> None:
        self._start = start
        self._actor: Any = None
        self._starting: Any = None
        self._name = ""
        self._lock = threading.Lock()

    def run(self, kind: JobKind, rows: Sequence[Row]) -> list[Found]:
        """See `Engine`."""
        actor = self._actor
        if actor is None:
            raise EngineLostError
        light = [row._replace(carried={}) for row in rows]
        try:
            found: list[Found] = ray.get(actor.run.remote(kind, light))
        except RayTaskError as error:
            raise _ours(error) from error
        except RayError as error:
            self._drop(actor, error)
            raise EngineLostError from error
        return found

    def revive(self) -> None:
        """See `Engine`."""
        with self._lock:
            for _ in range(_MOST_STARTS):
                if self._actor is not None or self._start.closed:
                    return
                self._actor = self._made()
        if self._actor is None:
            raise BatchError(
                f"{_MOST_STARTS} workers died while they loaded the model; see Ray's logs, and the "
                "memory of the machines"
            )

    def end(self) -> None:
        """End it; a thread that uses Ray while it shuts down would end this process."""
        for actor in (self._actor, self._starting):
            if actor is not None:
                with contextlib.suppress(Exception):
                    ray.kill(actor)
        with self._lock:  # until nothing is started any more
            self._actor = None

    def _made(self) -> Any:
        """A new actor; None if it died before it was ready."""
        settings = self._start.settings
        # This project replaces actors itself: it counts what is computed again, and tells of it.
        actor: Any = (
            ray.remote(Actor)
            .options(num_cpus=settings.threads, max_concurrency=2, max_restarts=0)
            .remote()
        )
        self._starting = actor
        if self._start.closed:  # in between
            ray.kill(actor)
            return None
        try:
            fingerprint, process = ray.get(
                actor.load.remote(settings, version(PACKAGE), self._start.bundle)
            )
        except RayTaskError as error:
            raise _ours(error) from error
        except RayActorError as error:
            if "import" in str(error):
                raise BatchError(
                    f"a worker cannot be started; install {PACKAGE}[batch,ray] "
                    f"{version(PACKAGE)} on every machine: {_last_line(error)}"
                ) from error
            return None
        except RayError as error:
            raise BatchError(f"a worker cannot be started: {_last_line(error)}") from error
        self._start.agree(fingerprint)
        self._name = f"process {process}"
        return actor

    def _drop(self, actor: Any, error: RayError) -> None:
        with self._lock:
            if self._actor is not actor or self._start.closed:
                return
            self._actor = None
        with contextlib.suppress(Exception):
            ray.kill(actor)
        click.echo(
            f"note: a worker died ({self._name}{_exit_type(error)}); its rows go to another",
            err=True,
        )


def _processors() -> float:
    # Ray gives it no types.
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found.get("CPU", 0)


def _connect(address: str | None) -> bool:
    """Connect to a cluster, or start one; whether it is ours to end."""
    if ray.is_initialized():
        return False
    if address is not None:
        _check_reachable(address)
    try:
        ray.init(
            address=address or _LOCAL,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise BatchError(
            f"there is no Ray cluster at {address}: {_last_line(error)}"
            if address
            else f"Ray cannot be started: {_last_line(error)}"
        ) from error
    return True


def _check_reachable(address: str) -> None:
    """Ray itself would try for hours.

    Raises:
        BatchError: Nothing answers at the address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        if address in ("auto", _LOCAL):
            return
        raise BatchError(f"--ray-address: {address!r} is not like 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=_REACHED).close()
    except (OSError, OverflowError) as error:
        raise BatchError(
            f"there is no Ray cluster at {address}: {getattr(error, 'strerror', None) or error}"
        ) from error


def _ours(error: RayTaskError) -> Exception:
    """An error that a worker raised."""
    cause = error.cause
    if isinstance(cause, Gpt2jaError):
        return cause
    return BatchError(f"a worker failed: {type(cause).__name__}: {_last_line(cause or error)}")


def _exit_type(error: RayError) -> str:
    """How a worker died, where Ray knows: its texts run to a page."""
    found = re.search(r"Worker exit type: (\w+)", str(error))
    return f", {found[1].lower().replace('_', ' ')}" if found else ""


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
