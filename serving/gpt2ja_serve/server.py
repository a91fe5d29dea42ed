"""Runs the server: load, serve, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING

import uvicorn

from gpt2ja_serve.app import make_app
from gpt2ja_serve.http.connection import connection_class
from gpt2ja_serve.http.listener import address, listen
from gpt2ja_serve.http.logs import configure
from gpt2ja_serve.service import Service

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from gpt2ja_serve.settings import ServeSettings

_log = logging.getLogger("gpt2ja_serve")
_FLUSH_SECONDS = 5  # that answers of cancelled requests get to be read


class Server(uvicorn.Server):
    """uvicorn, with this project's way to start and to end.

    The port is open while the model is loaded and while requests drain, and says so with 503. A
    first signal drains; a second one ends the process at once.

    Args:
        settings: How to serve.

    Attributes:
        service: What it serves.
        listener: The socket that it is bound to.
        address: Where it can be reached.
        failure: What loading ended with; None where it did not fail.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.service = Service(settings)
        self.failure: Exception | None = None
        self.listener = listen(settings)
        self.address = address(self.listener, "http" if settings.certificate is None else "https")
        self._deadline: float | None = None  # of draining
        self._closing: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None
        super().__init__(
            uvicorn.Config(
                make_app(self.service),
                ssl_certfile=settings.certificate,
                ssl_keyfile=settings.private_key,
                http=connection_class(settings),
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]  # a fraction works
                timeout_graceful_shutdown=_FLUSH_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, and load behind it."""
        await super().startup(sockets)
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            await self.service.load()
        except Exception as error:
            self.failure = error
            self.should_exit = True
            return
        _log.info("serving %s at %s", self.settings.name, self.address)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain; a second signal ends the process."""
        if self._deadline is not None:
            if self.settings.unix_socket is not None:
                self.settings.unix_socket.unlink(missing_ok=True)
            os._exit(128 + sig)
        self.drain()

    def drain(self) -> None:
        """Take no further requests, and end when those that run have ended."""
        self._deadline = time.monotonic() + self.settings.drain_timeout
        self.service.drain()

    async def on_tick(self, counter: int) -> bool:
        """Look whether all has ended; called ten times a second."""
        if self._deadline is not None:
            if self.service.running == 0:
                return True
            if self._closing is None and time.monotonic() >= self._deadline:
                _log.warning("cancelling %d requests after --drain-timeout", self.service.running)
                self._closing = asyncio.create_task(self.service.close())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port and the model."""
        self.service.drain()
        await super().shutdown(sockets)
        if self._loading is not None:
            await self._loading
        await self.service.close()


def run(settings: ServeSettings) -> None:
    """Serve until a signal.

    Raises:
        Gpt2jaError: The model cannot be loaded.
        OutputError: The address cannot be bound.
    """
    configure(json_lines=settings.json_log)
    _raise_file_limit()
    server = Server(settings)
    server.run(sockets=[server.listener])
    if settings.unix_socket is not None:
        settings.unix_socket.unlink(missing_ok=True)
    if server.failure is not None:
        raise server.failure


def _raise_file_limit() -> None:
    """Let as many clients connect as the system allows: each is an open file."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
