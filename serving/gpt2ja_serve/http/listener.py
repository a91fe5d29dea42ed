"""The socket that a server listens on."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from gpt2ja_onnx.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_serve.settings import ServeSettings


def listen(settings: ServeSettings) -> socket.socket:
    """The socket of a server.

    Raises:
        OutputError: It cannot be bound.
    """
    if settings.unix_socket is not None:
        return _at_path(settings.unix_socket)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise OutputError(
            f"cannot bind to {settings.host}, port {settings.port}: {error.strerror}; choose "
            "another with --host or --port"
        ) from error
    return listener


def address(listener: socket.socket, scheme: str) -> str:
    """Where a socket can be reached."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _at_path(path: Path) -> socket.socket:
    """A socket at a path, which its owner and group may use."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            path.unlink()  # left by a process that was killed
        listener.bind(str(path))
        path.chmod(0o660)
    except OSError as error:
        listener.close()
        raise OutputError(f"cannot bind to {path}: {error.strerror or error}") from error
    return listener
