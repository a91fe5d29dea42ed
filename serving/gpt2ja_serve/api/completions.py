"""POST /v1/completions."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from gpt2ja_onnx.errors import Gpt2jaError, SettingError
from gpt2ja_serve.api.answers import REASONS, Choice, Completion, Logprobs, Usage
from gpt2ja_serve.api.parameters import param_of
from gpt2ja_serve.api.prepared import check_deadline, prepare
from gpt2ja_serve.api.request import read_request
from gpt2ja_serve.api.stream import Stream
from gpt2ja_serve.api.token_texts import TokenTexts
from gpt2ja_serve.http.errors import api_error, refused
from gpt2ja_serve.http.exchange import JSON, read_json, send_bytes, while_connected
from gpt2ja_serve.http.trace import trace_of

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from gpt2ja_onnx import GenerationResult, GPT2Ja, Request
    from gpt2ja_serve.api.prepared import Prepared
    from gpt2ja_serve.api.request import CompletionRequest
    from gpt2ja_serve.http.trace import Trace
    from gpt2ja_serve.service import Service

_encode = msgspec.json.Encoder().encode


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
        model, trace = service.model, trace_of(scope)
        request = read_request(content, service)
        handles: list[Request] = []
        service.running += 1
        try:
            async with (
                while_connected(receive),
                asyncio.timeout(service.settings.request_timeout + 1),
            ):
                prompts = await prepare(request, model)
                trace.asked(
                    request.prompts,
                    sum(len(prompt.ids) for prompt in prompts),
                    stream=request.stream,
                )
                handles = _submit(request, prompts, model)
                self._count_request(request, prompts)
                if request.stream:
                    await Stream(service, request, prompts, trace, send).run(handles)
                else:
                    await self._answer(request, prompts, handles, trace, send)
        except TimeoutError:
            raise check_deadline(service.settings.request_timeout) from None
        except SettingError as error:
            message = " ".join(str(error).split())
            raise refused(message, param_of(message), "invalid_value") from None
        except Gpt2jaError as error:
            raise api_error(error) from error
        finally:
            service.running -= 1
            for handle in handles:
                handle.cancel()

    async def _answer(
        self,
        request: CompletionRequest,
        prompts: list[Prepared],
        handles: list[Request],
        trace: Trace,
        send: Send,
    ) -> None:
        service, model, tokens = self._service, self._service.model, 0
        choices: list[msgspec.Raw] = []
        for place, prompt in enumerate(prompts):
            found: list[Choice] = []
            if handles:
                results = await handles[place]
                tokens += sum(result.completion_tokens for result in results)
                trace.generated(handles[place].times, [_outline(result) for result in results])
                found += [_choice(model, r, prompt, request) for r in _best(results, request)]
            else:
                found += [_scored(prompt, request) for _ in range(request.returned)]
            for choice in found:
                choice.index = len(choices)
                choices.append(msgspec.Raw(_encode(choice)))
                if choice.logprobs is not None:
                    await asyncio.sleep(0)  # other streams go on between two of them
        read = sum(len(prompt.ids) for prompt in prompts)
        completion = Completion(
            id=trace.completion_id,
            created=int(time.time()),
            model=service.settings.name,
            system_fingerprint=service.fingerprint,
            choices=choices,
            usage=Usage(read, tokens, read + tokens),
        )
        await send_bytes(send, _encode(completion), JSON)

    def _count_request(self, request: CompletionRequest, prompts: list[Prepared]) -> None:
        metrics = self._service.metrics
        for prompt in prompts:
            metrics.prompt_tokens += len(prompt.ids)
            metrics.request_prompt_tokens.observe(len(prompt.ids))
        metrics.params_n.observe(request.returned)
        tokens = 0 if request.config is None else request.config.max_new_tokens
        metrics.params_max_tokens.observe(tokens)


def _submit(request: CompletionRequest, prompts: list[Prepared], model: GPT2Ja) -> list[Request]:
    """Queue all prompts, or none.

    Raises:
        Gpt2jaError: The queue is full, or a setting does not fit the model.
    """
    handles: list[Request] = []
    if request.config is None:
        return handles
    try:
        for prompt in prompts:
            handle = model.submit(prompt.ids, request.config, streamed=request.stream)
            handles.append(handle)  # one by one, so that an error finds them
    except BaseException:
        for handle in handles:
            handle.cancel()
        raise
    return handles


def _best(results: list[GenerationResult], request: CompletionRequest) -> list[GenerationResult]:
    """The sequences to return: with best_of those of the highest mean log-probability."""
    if len(results) <= request.returned:
        return results

    def mean(result: GenerationResult) -> float:
        logprobs = [entry.logprob for entry in result.logprobs or ()]
        return sum(logprobs) / len(logprobs) if logprobs else float("-inf")

    return sorted(results, key=mean, reverse=True)[: request.returned]


def _choice(
    model: GPT2Ja, result: GenerationResult, prompt: Prepared, request: CompletionRequest
) -> Choice:
    """The choice of one sequence; its index is set where its place is known."""
    logprobs = None
    if request.logprobs is not None and result.logprobs is not None:
        logprobs = Logprobs()
        if prompt.logprobs is not None:
            logprobs.extend(prompt.logprobs)
        texts = TokenTexts(model.tokenizer, len(prompt.echoed))
        for token, entry in zip(result.token_ids, result.logprobs, strict=True):
            texts.push(token, entry)
        logprobs.extend(texts.release(result.text, last=True))
    choice = Choice(0, prompt.echoed + result.text, logprobs, REASONS[result.finish_reason])
    choice.seed = result.seed
    if request.token_ids:
        choice.prompt_token_ids, choice.token_ids = prompt.ids, result.token_ids
    return choice


def _scored(prompt: Prepared, request: CompletionRequest) -> Choice:
    """The choice of a prompt that is only echoed."""
    choice = Choice(0, prompt.echoed, prompt.logprobs, "length")
    if request.token_ids:
        choice.prompt_token_ids, choice.token_ids = prompt.ids, []
    return choice


def _outline(result: GenerationResult) -> tuple[int, str, str]:
    """Tokens, reason and text of a sequence, for logs and metrics."""
    return result.completion_tokens, REASONS[result.finish_reason], result.text
