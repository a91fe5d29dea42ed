"""The application: which path leads where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router

from gpt2ja_serve.api.completions import Completions
from gpt2ja_serve.api.openapi import openapi
from gpt2ja_serve.api.status import Status
from gpt2ja_serve.api.tokens import Tokens
from gpt2ja_serve.http.exchange import send_json
from gpt2ja_serve.http.gate import Gate
from gpt2ja_serve.http.page_files import page_files
from gpt2ja_serve.http.trace import Tracing

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from gpt2ja_serve.service import Service

PAGE = Path(__file__).with_name("page")


class Endpoint:
    """A method as an ASGI application; starlette takes bare functions for another thing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await self._app(scope, receive, send)


def make_app(service: Service, page: Path = PAGE) -> ASGIApp:
    """The application of a server.

    Args:
        service: The server.
        page: Directory of the page's files.
    """
    status, tokens, described = Status(service), Tokens(service), openapi(service.settings.name)

    async def schema(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, described)

    files = page_files(page)
    gets: dict[str, ASGIApp] = {
        "/health": status.health,
        "/ready": status.ready,
        "/version": status.version,
        "/metrics": status.metrics,
        "/openapi.json": schema,
        "/v1/models": status.models,
        "/v1/models/{name:path}": status.one_model,
        "/tokenizer_info": tokens.info,
        "/page/settings.json": status.settings,
        **files,
    }
    posts: dict[str, ASGIApp] = {
        "/v1/completions": Completions(service),
        "/v1/chat/completions": status.chat,
        "/tokenize": tokens.tokenize,
        "/detokenize": tokens.detokenize,
    }
    routes = [Route(path, Endpoint(app), methods=["GET"]) for path, app in gets.items()]
    routes += [Route(path, Endpoint(app), methods=["POST"]) for path, app in posts.items()]
    app: ASGIApp = Router(routes, redirect_slashes=False)
    if origins := service.settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    open_paths = frozenset({"/page/settings.json", *files})
    app = Gate(app, service.settings, open_paths)
    named = frozenset({*gets, *posts} - set(files))
    return Tracing(app, service.metrics, service.settings, named)
