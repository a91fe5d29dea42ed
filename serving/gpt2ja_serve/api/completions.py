"""POST /v1/completions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpt2ja_onnx.errors import Gpt2jaError, RequestTimeoutError, SettingError
from gpt2ja_serve.api.parameters import param_of
from gpt2ja_serve.api.prepared import prepare
from gpt2ja_serve.api.request import read_request
from gpt2ja_serve.api.stream import Stream
from gpt2ja_serve.api.whole import Whole
from gpt2ja_serve.http.errors import api_error, overdue, refused
from gpt2ja_serve.http.exchange import read_json, while_connected
from gpt2ja_serve.http.trace import trace_of

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from gpt2ja_onnx import GPT2Ja, Request
    from gpt2ja_serve.api.prepared import Prepared
    from gpt2ja_serve.api.request import CompletionRequest
    from gpt2ja_serve.service import Service

_GRACE = 1.0  # seconds, so that the engine's own deadline comes first where it can


class Completions:
    """Continues prompts.

    Args:
        service: Whose model does.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        service = self._service
        _ = service.model  # a server that takes nothing need not read
        content = await read_json(scope, receive, service.settings.max_body)
        request = read_request(content, service)
        deadline = service.settings.request_timeout
        given = deadline if request.config is None else request.config.timeout or deadline
        service.running += 1
        try:
            async with while_connected(receive), asyncio.timeout(deadline + _GRACE):
                await self._complete(request, scope, send)
        except SettingError as error:
            message = " ".join(str(error).split())
            raise refused(message, param_of(message), "invalid_value") from None
        except TimeoutError as error:
            if isinstance(error, RequestTimeoutError) and given < deadline:
                raise api_error(error) from None  # the client's own deadline
            raise overdue(deadline) from None
        except Gpt2jaError as error:
            raise api_error(error) from error
        finally:
            service.running -= 1

    async def _complete(self, request: CompletionRequest, scope: Scope, send: Send) -> None:
        service, trace = self._service, trace_of(scope)
        model = service.model
        prompts = await prepare(request, model)
        tokens = sum(len(prompt.ids) for prompt in prompts)
        trace.asked(request.prompts, tokens, stream=request.stream)
        handles: list[Request] = []
        try:
            _submit(request, prompts, model, handles)
            self._count(request, prompts)
            answer = Stream if request.stream else Whole
            await answer(service, model, request, prompts, trace, send).run(handles)
        finally:
            for handle in handles:
                handle.cancel()

    def _count(self, request: CompletionRequest, prompts: list[Prepared]) -> None:
        metrics = self._service.metrics
        for prompt in prompts:
            metrics.prompt_tokens += len(prompt.ids)
            metrics.request_prompt_tokens.observe(len(prompt.ids))
        metrics.params_n.observe(request.returned)
        tokens = 0 if request.config is None else request.config.max_new_tokens
        metrics.params_max_tokens.observe(tokens)


def _submit(
    request: CompletionRequest, prompts: list[Prepared], model: GPT2Ja, handles: list[Request]
) -> None:
    """Queue all prompts; `handles` has those that were queued, also where one is refused.

    Raises:
        Gpt2jaError: The queue is full, or a setting does not fit the model.
    """
    if request.config is None:
        return
    for prompt in prompts:
        handles.append(  # noqa: PERF401  # an error must find those before it
            model.submit(prompt.ids, request.config, streamed=request.stream)
        )
