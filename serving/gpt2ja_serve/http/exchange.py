"""One request and its answer, on ASGI's messages."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from gpt2ja_serve.http.errors import ApiError, refused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from starlette.types import Receive, Scope, Send

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
JSON = b"application/json"


class ClientGoneError(Exception):
    """Nobody is there any more to be answered."""


def header(scope: Scope, name: bytes) -> str | None:
    """A header of the request; None where there is none."""
    for key, value in scope["headers"]:
        if key == name:
            found: str = value.decode("latin-1")
            return found
    return None


async def read_json(scope: Scope, receive: Receive, most: int) -> dict[str, Any]:
    """The JSON object that a request has as its body.

    Args:
        scope: Of the request.
        receive: Gives the body.
        most: Bytes that it may have.

    Raises:
        ApiError: It is too large, or no JSON object.
        ClientGoneError: It did not come whole.
    """
    kind = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also what keeps pages of other sites from asking without the browser's leave.
        raise ApiError(
            415, f"the body must be of type application/json, not {kind or 'of no type'}"
        )
    body = await _read_body(scope, receive, most)
    try:
        content = _decode(body)
    except RecursionError:
        raise refused("the body is nested too deeply") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise refused(f"the body is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise refused("the body must be a JSON object")
    return content


async def _read_body(scope: Scope, receive: Receive, most: int) -> bytes:
    too_large = ApiError(413, f"the body has more than {most} bytes", code="body_too_large")
    told = header(scope, b"content-length") or ""
    if told.isascii() and told.isdigit() and (len(told) > 15 or int(told) > most):
        raise too_large
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise too_large
        if not message.get("more_body", False):
            return b"".join(parts)


async def send_json(
    send: Send, content: object, *, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer with JSON."""
    await send_bytes(send, _encode(content), JSON, status=status, headers=headers)


async def send_bytes(
    send: Send,
    body: bytes,
    kind: bytes,
    *,
    status: int = 200,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Answer with a whole body."""
    fields = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: ApiError) -> None:
    """Answer with an error."""
    await send_json(send, error.answer(), status=error.status, headers=error.headers)


@contextlib.asynccontextmanager
async def while_connected(receive: Receive) -> AsyncGenerator[None]:
    """Run the block until its end, or until the client has left.

    Raises:
        ClientGoneError: The client has left; what the block awaited was cancelled.
    """
    running = asyncio.current_task()
    assert running is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        running.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        running.uncancel()
        raise ClientGoneError from None
    finally:
        watcher.cancel()
