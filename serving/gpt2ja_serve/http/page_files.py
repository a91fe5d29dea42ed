"""The page's files, read once into memory: no path of a request ever reaches the disk."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from gpt2ja_serve.http.exchange import header, send_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

_KINDS = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".json": b"application/json",
    ".png": b"image/png",
    ".svg": b"image/svg+xml",
    ".woff2": b"font/woff2",
}
# Nothing but this server's own files and answers, and no frame of another page around it.
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        b"object-src 'none'",
    ),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-cache"),
]


class _File(NamedTuple):
    body: bytes
    kind: bytes
    tag: bytes


class PageFile:
    """Answers with one file.

    Args:
        file: Where it is.
    """

    def __init__(self, file: Path) -> None:
        body = file.read_bytes()
        self._file = _File(body, _KINDS[file.suffix], b'"%b"' % _tag(body))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        body, kind, tag = self._file
        headers = [*_HEADERS, (b"etag", tag)]
        if (header(scope, b"if-none-match") or "").encode() == tag:
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body"})
            return
        await send_bytes(send, body, kind, headers=headers)


def page_files(directory: Path) -> dict[str, PageFile]:
    """The files of a directory by their paths on the server; ``index.html`` is ``/``.

    Files of kinds that a page does not need are left out.
    """
    found: dict[str, PageFile] = {}
    for file in sorted(directory.rglob("*")):
        if file.is_file() and file.suffix in _KINDS:
            path = f"/{file.relative_to(directory).as_posix()}"
            found["/" if path == "/index.html" else path] = PageFile(file)
    return found


def _tag(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()
