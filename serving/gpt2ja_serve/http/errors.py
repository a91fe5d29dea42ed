"""Errors as clients of OpenAI's API read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gpt2ja_onnx.errors import (
    CancelledError,
    ClosedError,
    Gpt2jaError,
    QueueFullError,
    RequestTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
_RETRY_SECONDS = 1  # a queue that is full has room again within some steps


class ErrorBody(msgspec.Struct):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(msgspec.Struct):
    """The body of every answer that is no success."""

    error: ErrorBody


class ApiError(Exception):
    """An answer that is no success.

    Args:
        status: Of HTTP.
        message: One line for people.
        param: The parameter at fault.
        code: A word for programs.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = list(headers)

    def answer(self) -> ErrorAnswer:
        """The body of the answer."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else _TYPES[400])
        return ErrorAnswer(ErrorBody(str(self), kind, self.param, self.code))


def refused(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The error of a request that can never succeed."""
    return ApiError(400, message, param=param, code=code)


def unavailable(message: str) -> ApiError:
    """The error of a server that takes nothing now."""
    return ApiError(503, message, code="unavailable", headers=_retry_after())


def api_error(error: Gpt2jaError) -> ApiError:
    """What a client is told of an error of the model."""
    message = " ".join(str(error).split())
    if isinstance(error, QueueFullError):
        return ApiError(429, message, code="queue_full", headers=_retry_after())
    if isinstance(error, RequestTimeoutError):
        return _overdue(408, message)
    if isinstance(error, CancelledError | ClosedError):
        return unavailable("the server is shutting down")
    if isinstance(error, ValueError):
        return refused(message)
    return ApiError(500, message)


def overdue(seconds: float) -> ApiError:
    """The error of a request that was not answered in the time that the server has for it."""
    return _overdue(504, f"the request was not finished within {seconds:g} s")


def _overdue(status: int, message: str) -> ApiError:
    # Clients repeat what times out; a second try would take as long.
    return ApiError(status, message, code="timeout", headers=[(b"x-should-retry", b"false")])


def _retry_after() -> list[tuple[bytes, bytes]]:
    return [(b"retry-after", str(_RETRY_SECONDS).encode())]
