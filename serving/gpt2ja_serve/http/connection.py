"""One connection: uvicorn's protocol, with bounds on what a client can do to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gpt2ja_serve.http.errors import ApiError

if TYPE_CHECKING:
    import asyncio

    from gpt2ja_serve.settings import ServeSettings

_encode = msgspec.json.Encoder().encode


class Connection(HttpToolsProtocol):
    """Closes connections that send nothing, send slowly, or do not read.

    uvicorn waits for ever for a request to begin, to arrive in full, and to be read, and its
    parser takes headers of any size.
    """

    settings: ServeSettings  # set by `connection_class`

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._arriving: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._unread_bytes = 0
        self._head = 0  # bytes of the line and headers so far
        self._in_head = False
        self._answered: Any = None  # the cycle that runs; the last one read may wait behind it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a request; of TCP, TLS or a Unix socket, which all can be written."""
        super().connection_made(transport)
        # A full buffer of the system is what a slow reader shows first; no second one behind it.
        transport.set_write_buffer_limits(high=1)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let whatever waits for this client know."""
        for timer in (self._arriving, self._unread):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        running = self._answered
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read, and bound the size of the head."""
        if self._arriving is None and (self.cycle is None or self.cycle.response_complete):
            self._expect()
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head += len(data)
            if self._head > self.settings.max_header:
                self._refuse_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head, self._in_head = 0, True
        if self._arriving is None:
            self._expect()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's head is there."""
        self._in_head = False
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.settings.max_header:
            self._refuse_head()
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body, unless its request was refused."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there."""
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None
        if not self.transport.is_closing():
            super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, as JSON like every error."""
        if not self.transport.is_closing():
            self._refuse(ApiError(400, "the request is not valid HTTP"))

    def pause_writing(self) -> None:
        """The client reads slowly: see later whether it reads at all."""
        super().pause_writing()
        if self._unread is None:
            self._unread_bytes = self.transport.get_write_buffer_size()
            self._watch_reader()

    def resume_writing(self) -> None:
        """The client has read everything."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _watch_reader(self) -> None:
        self._unread = self.loop.call_later(self.settings.send_timeout, self._check_reader)

    def _check_reader(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left >= self._unread_bytes:
            self.transport.abort()
            return
        self._unread_bytes = left
        self._watch_reader()

    def _expect(self) -> None:
        self._arriving = self.loop.call_later(self.settings.receive_timeout, self._give_up)

    def _give_up(self) -> None:
        self._arriving = None
        self.transport.abort()

    def _refuse_head(self) -> None:
        most = self.settings.max_header
        self._refuse(ApiError(431, f"the request's line and headers have more than {most} bytes"))

    def _refuse(self, error: ApiError) -> None:
        body = _encode(error.answer())
        self.transport.write(
            b"".join(
                [
                    STATUS_LINE[error.status],
                    b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body),
                    b"connection: close\r\n\r\n",
                    body,
                ]
            )
        )
        self.transport.close()


def connection_class(settings: ServeSettings) -> type[Connection]:
    """The protocol of a server; uvicorn makes one for each connection."""
    return type("BoundConnection", (Connection,), {"settings": settings})
