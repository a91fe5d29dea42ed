"""Who may ask: names of the host, origins of pages, keys."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gpt2ja_serve.http.errors import ApiError
from gpt2ja_serve.http.exchange import header

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from gpt2ja_serve.settings import ServeSettings

# What tells nothing, and the page, which asks for the key.
_OPEN = ("/health", "/ready")


class Gate:
    """Lets requests through that may ask.

    On the loopback interface only its own names are answered: a page of another site whose name
    was made to point here (DNS rebinding) sends its own name.

    Args:
        app: What it guards.
        settings: The server's.
        open_paths: That need no key, beside those of health.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, open_paths: frozenset[str]) -> None:
        self._app = app
        self._keys = [_digest(key.encode()) for key in settings.keys]
        self._open = open_paths.union(_OPEN)
        self._names = {settings.host.lower(), *map(str.lower, settings.allowed_hosts)}
        self._names_only = settings.unix_socket is None and (
            is_loopback(settings.host) or bool(settings.allowed_hosts)
        )
        self._origins = frozenset(settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http":
            self._check_host(scope)
            self._check_origin(scope)
            self._check_key(scope)
        await self._app(scope, receive, send)

    def _check_host(self, scope: Scope) -> None:
        if not self._names_only:
            return
        host = header(scope, b"host") or ""
        if not self._known(_name(f"//{host}")):
            raise ApiError(
                403,
                f"this server does not answer to the host {host[:80]!r}; start it with "
                "--allowed-host to let it",
                code="host_not_allowed",
            )

    def _check_origin(self, scope: Scope) -> None:
        origin = header(scope, b"origin")
        if origin is None or "*" in self._origins or origin in self._origins:
            return
        name = _name(origin)
        if name and (self._known(name) or name == _name(f"//{header(scope, b'host') or ''}")):
            return
        raise ApiError(
            403,
            f"pages of {origin[:80]!r} may not use this server; start it with --cors-origin to "
            "let them",
            code="origin_not_allowed",
        )

    def _check_key(self, scope: Scope) -> None:
        if not self._keys or scope["path"] in self._open or scope["method"] == "OPTIONS":
            return
        kind, _, key = (header(scope, b"authorization") or "").partition(" ")
        digest = _digest(key.strip().encode("latin-1"))
        # Every key is compared, so that the time tells nothing.
        found = [hmac.compare_digest(digest, known) for known in self._keys]
        if kind.lower() != "bearer" or not any(found):
            raise ApiError(
                401,
                "a key is needed: Authorization: Bearer KEY" if not key else "the key is wrong",
                code="invalid_api_key",
                headers=[(b"www-authenticate", b"Bearer")],
            )

    def _known(self, name: str | None) -> bool:
        return name is not None and (name in self._names or is_loopback(name))


def is_loopback(host: str) -> bool:
    """Whether a name or an address is the loopback interface's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _name(url: str) -> str | None:
    """The host of a URL in lower case; None where it has none that can be read."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _digest(key: bytes) -> bytes:
    """Of equal length for all keys, so that comparing shows no length."""
    return hashlib.sha256(key).digest()
