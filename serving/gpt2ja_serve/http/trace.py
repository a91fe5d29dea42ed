"""Follows every request: its id, its answer's headers, errors, the log, the counts."""

from __future__ import annotations

import logging
import os
import re
import time
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from gpt2ja_serve.http.errors import ApiError
from gpt2ja_serve.http.exchange import ClientGoneError, header, send_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gpt2ja_onnx.results import RequestTimes
    from gpt2ja_serve.metrics import Metrics
    from gpt2ja_serve.settings import ServeSettings

access = logging.getLogger("gpt2ja_serve.access")
_errors = logging.getLogger("gpt2ja_serve")
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_KEY = "gpt2ja_serve.trace"
_CLIENT_GONE = 499  # nginx's number for it
_QUIET = ("/health", "/ready", "/metrics")  # asked every few seconds


class Trace:
    """What is known of one request for its line of the log.

    Args:
        scope: Of the request.
        metrics: Where it is counted.
        settings: The server's.
    """

    def __init__(self, scope: Scope, metrics: Metrics, settings: ServeSettings) -> None:
        given = header(scope, b"x-request-id") or ""
        self.id = given if _ID.fullmatch(given) else os.urandom(12).hex()
        self.started = time.monotonic()
        self.status = 0
        self.error: str | None = None
        self.fields: dict[str, Any] = {}
        self._metrics = metrics
        self._texts = settings.log_prompts
        self._reasons: list[str] = []

    @property
    def completion_id(self) -> str:
        """The id of a completion, which contains that of the request."""
        return f"cmpl-{self.id}"

    def asked(self, prompts: Sequence[object], tokens: int, *, stream: bool) -> None:
        """A completion was read."""
        self.fields |= {"prompts": len(prompts), "prompt_tokens": tokens, "stream": stream}
        if self._texts:
            self.fields["prompt"] = prompts

    def generated(self, times: RequestTimes, outlines: Sequence[tuple[int, str, str]]) -> None:
        """A prompt has all its sequences: tokens, reason and text of each."""
        tokens = sum(outline[0] for outline in outlines)
        fields, metrics = self.fields, self._metrics
        fields["completion_tokens"] = fields.get("completion_tokens", 0) + tokens
        self._reasons += [outline[1] for outline in outlines]
        fields["finish_reason"] = ",".join(dict.fromkeys(self._reasons))
        if self._texts:
            fields.setdefault("texts", []).extend(outline[2] for outline in outlines)
        metrics.generation_tokens += tokens
        for count, reason, _ in outlines:
            metrics.count_finished(reason)
            metrics.request_generation_tokens.observe(count)
        ended = times.ended
        if times.started is None or times.first_token is None or ended is None:
            return
        metrics.queue_time.observe(times.started - times.submitted)
        metrics.prefill_time.observe(times.first_token - times.started)
        metrics.decode_time.observe(ended - times.first_token)
        metrics.time_to_first_token.observe(times.first_token - times.submitted)
        metrics.e2e_latency.observe(ended - times.submitted)
        longest = max(outline[0] for outline in outlines)
        if longest > 1:
            metrics.time_per_output_token.observe((ended - times.first_token) / (longest - 1))
        fields.setdefault("queue_s", round(times.started - times.submitted, 6))
        fields.setdefault("first_token_s", round(times.first_token - self.started, 6))

    def failed(self, error: ApiError) -> None:
        """The request ends with an error."""
        self.error = str(error)


def trace_of(scope: Scope) -> Trace:
    """The trace of a request."""
    found: Trace = scope[_KEY]
    return found


class Tracing:
    """The outermost application: whatever happens inside is answered and logged.

    Args:
        app: What it is around.
        metrics: Where answers are counted.
        settings: The server's.
        paths: That are counted by name; the others are counted together.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, settings: ServeSettings, paths: frozenset[str]
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._settings = settings
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[_KEY] = trace = Trace(scope, self._metrics, self._settings)
        scope["app"] = self  # the router then raises what it cannot route

        async def traced(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", trace.id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            await self._app(scope, receive, traced)
        except ClientGoneError:
            trace.status = _CLIENT_GONE
        except Exception as error:
            told = _told(error)
            trace.failed(told)
            if told.status == 500:
                _errors.error("request %s failed", trace.id, exc_info=error)
            if trace.status == 0:
                await send_error(traced, told)
        finally:
            self._log(scope, trace)

    def _log(self, scope: Scope, trace: Trace) -> None:
        path: str = scope["path"]
        shown = path if path in self._paths else "other"
        self._metrics.count_answer(scope["method"], shown, trace.status)
        if not self._settings.access_log or path in _QUIET:
            return
        client = scope.get("client")
        fields = {
            "client": client[0] if client else "unix",
            "method": scope["method"],
            "path": path,
            "status": trace.status,
            "seconds": round(time.monotonic() - trace.started, 6),
            "id": trace.id,
            **trace.fields,
        }
        if trace.error is not None:
            fields["error"] = trace.error
        access.info("", extra={"fields": fields})


def _told(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        headers = [(k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items()]
        return ApiError(error.status_code, error.detail, headers=headers)
    return ApiError(500, "the server failed; its log says more under the request's id")
