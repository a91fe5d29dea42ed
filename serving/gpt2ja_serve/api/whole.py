"""A completion as one JSON object."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from gpt2ja_serve.api.answers import REASONS, Choice, Completion, Logprobs, Usage
from gpt2ja_serve.api.token_texts import TokenTexts
from gpt2ja_serve.http.exchange import JSON, send_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Send

    from gpt2ja_onnx import GenerationResult, GPT2Ja, Request
    from gpt2ja_serve.api.prepared import Prepared
    from gpt2ja_serve.api.request import CompletionRequest
    from gpt2ja_serve.http.trace import Trace
    from gpt2ja_serve.service import Service

_encode = msgspec.json.Encoder().encode
_HEADERS = [(b"content-type", JSON)]


class Whole:
    """Sends the texts of a request when all of them are there.

    Several choices are encoded and sent one by one: with log-probabilities they may be large, a
    client may read slowly, and other requests go on meanwhile.

    Args:
        service: The server.
        model: Its model.
        request: What is asked for.
        prompts: Its prompts.
        trace: Of the request.
        send: Where the answer goes.
    """

    def __init__(
        self,
        service: Service,
        model: GPT2Ja,
        request: CompletionRequest,
        prompts: list[Prepared],
        trace: Trace,
        send: Send,
    ) -> None:
        self._service = service
        self._model = model
        self._request = request
        self._prompts = prompts
        self._trace = trace
        self._send = send
        self._results: list[list[GenerationResult]] = []

    async def run(self, handles: list[Request]) -> None:
        """Wait for all sequences, and send them."""
        tokens = 0
        for handle in handles:
            results = await handle
            tokens += sum(result.completion_tokens for result in results)
            self._trace.generated(
                handle.times,
                [(r.completion_tokens, REASONS[r.finish_reason], r.text) for r in results],
            )
            self._results.append(_best(results, self._request.returned))
        read = sum(len(prompt.ids) for prompt in self._prompts)
        completion = Completion(
            id=self._trace.completion_id,
            created=int(time.time()),
            model=self._service.settings.name,
            system_fingerprint=self._service.fingerprint,
            choices=[],
            usage=Usage.of(read, tokens, [handle.cost for handle in handles]),
        )
        before, after = _encode(completion).split(b'"choices":[]', 1)
        before, after = before + b'"choices":[', b"]" + after
        choices = self._choices()
        if len(self._prompts) * self._request.returned == 1:
            await send_bytes(self._send, before + _encode(next(choices)) + after, JSON)
            return
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        for choice in choices:
            part = before + _encode(choice)
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
            before = b","
            if choice.logprobs is not None:
                await asyncio.sleep(0)
        await self._send({"type": "http.response.body", "body": after})

    def _choices(self) -> Iterator[Choice]:
        request, index = self._request, 0
        for place, prompt in enumerate(self._prompts):
            for number in range(request.returned):
                if self._results:
                    choice = self._choice(self._results[place][number], prompt)
                else:
                    choice = Choice(0, prompt.echoed, prompt.logprobs, "length")
                    if request.token_ids:
                        choice.prompt_token_ids, choice.token_ids = prompt.ids, []
                choice.index = index
                index += 1
                yield choice

    def _choice(self, result: GenerationResult, prompt: Prepared) -> Choice:
        logprobs = None
        if self._request.logprobs is not None and result.logprobs is not None:
            logprobs = Logprobs()
            if prompt.logprobs is not None:
                logprobs.extend(prompt.logprobs)
            texts = TokenTexts(self._model.tokenizer, len(prompt.echoed))
            for token, entry in zip(result.token_ids, result.logprobs, strict=True):
                texts.push(token, entry)
            logprobs.extend(texts.release(result.text, last=True))
        choice = Choice(0, prompt.echoed + result.text, logprobs, REASONS[result.finish_reason])
        choice.seed = result.seed
        if self._request.token_ids:
            choice.prompt_token_ids, choice.token_ids = prompt.ids, result.token_ids
        return choice


def _best(results: list[GenerationResult], count: int) -> list[GenerationResult]:
    """The sequences to return: with best_of those of the highest mean log-probability."""
    if len(results) <= count:
        return results

    def mean(result: GenerationResult) -> float:
        logprobs = [entry.logprob for entry in result.logprobs or ()]
        return sum(logprobs) / len(logprobs) if logprobs else float("-inf")

    return sorted(results, key=mean, reverse=True)[:count]
