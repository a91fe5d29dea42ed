"""A completion as server-sent events."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from gpt2ja_onnx.errors import Gpt2jaError
from gpt2ja_serve.api.answers import REASONS, Choice, Completion, Usage
from gpt2ja_serve.api.token_texts import TokenTexts
from gpt2ja_serve.http.errors import ApiError, api_error

if TYPE_CHECKING:
    from starlette.types import Send

    from gpt2ja_onnx import Chunk, GPT2Ja, Request
    from gpt2ja_serve.api.prepared import Prepared
    from gpt2ja_serve.api.request import CompletionRequest
    from gpt2ja_serve.http.trace import Trace
    from gpt2ja_serve.service import Service

_encode = msgspec.json.Encoder().encode
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx hands events on at once
]
_DONE = b"data: [DONE]\n\n"


class _Sequence:
    """What a stream knows of one sequence."""

    __slots__ = ("index", "last", "reason", "text", "texts", "tokens")

    def __init__(self, index: int, texts: TokenTexts | None) -> None:
        self.index = index
        self.texts = texts
        self.tokens = 0
        self.last = 0.0  # when its last token came
        self.reason = ""
        self.text: list[str] = []


class Stream:
    """Sends the texts of a request as they come.

    What has come since the last write is sent at once, so a client that reads slowly gets fewer
    and larger events, and nothing piles up but the tokens themselves.

    Args:
        service: The server.
        model: Its model.
        request: What is asked for.
        prompts: Its prompts.
        trace: Of the request.
        send: Where the events go.
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
        self._request = request
        self._prompts = prompts
        self._trace = trace
        self._send = send
        self._tokens = 0
        self._tokenizer = model.tokenizer
        usage = None if request.include_usage else msgspec.UNSET
        self._event = Completion(
            id=trace.completion_id,
            created=int(time.time()),
            model=service.settings.name,
            system_fingerprint=service.fingerprint,
            choices=[],
            usage=usage,
        )

    async def run(self, handles: list[Request]) -> None:
        """Send everything, an error that comes in between included."""
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        try:
            if len(handles) == 1:
                await self._follow(0, handles[0])
            elif handles:
                await self._follow_all(handles)
            else:
                await self._echo_alone()
        except Gpt2jaError as error:
            await self._end_with(api_error(error))
            return
        last = b""
        if self._request.include_usage:
            read = sum(len(prompt.ids) for prompt in self._prompts)
            self._event.choices = []
            self._event.usage = Usage.of(read, self._tokens, [handle.cost for handle in handles])
            last = b"data: %b\n\n" % _encode(self._event)
        await self._send({"type": "http.response.body", "body": last + _DONE})

    async def _follow_all(self, handles: list[Request]) -> None:
        """Send what comes of several prompts; the first error ends all."""
        try:
            async with asyncio.TaskGroup() as group:
                for place, handle in enumerate(handles):
                    group.create_task(self._follow(place, handle))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _follow(self, place: int, handle: Request) -> None:
        """Send what comes of one prompt."""
        request, prompt = self._request, self._prompts[place]
        sequences = [
            _Sequence(
                place * request.returned + index,
                None
                if request.logprobs is None
                else TokenTexts(self._tokenizer, len(prompt.echoed)),
            )
            for index in range(request.returned)
        ]
        if request.echo:
            await self._write([self._echo(sequence.index, prompt) for sequence in sequences])
        observe, clock = self._service.metrics.inter_token_latency.observe, time.monotonic
        async for chunks in handle.batches():
            now = clock()
            events: list[bytes] = []
            for sequence, of_it in _by_sequence(sequences, chunks):
                count = len(of_it)
                if sequence.last:
                    gap = (now - sequence.last) / count
                    for _ in range(count):
                        observe(gap)
                sequence.last = now
                if (event := self._part(sequence, of_it, prompt, handle.seed)) is not None:
                    events.append(event)
            if events:
                await self._write(events)
        self._tokens += sum(sequence.tokens for sequence in sequences)
        self._trace.generated(
            handle.times, [(s.tokens, s.reason, "".join(s.text)) for s in sequences]
        )

    def _part(
        self, sequence: _Sequence, chunks: list[Chunk], prompt: Prepared, seed: int
    ) -> bytes | None:
        """The event of some tokens of a sequence; None where there is nothing to say yet."""
        request, last = self._request, chunks[-1]
        text = last.text if len(chunks) == 1 else "".join(chunk.text for chunk in chunks)
        sequence.tokens += len(chunks) - (last.token_id < 0)
        if self._service.settings.log_prompts:
            sequence.text.append(text)
        choice = Choice(sequence.index, text)
        if sequence.texts is not None:
            for chunk in chunks:
                if chunk.logprobs is not None:
                    sequence.texts.push(chunk.token_id, chunk.logprobs)
            choice.logprobs = sequence.texts.release(text, last=last.finish_reason is not None)
        if request.token_ids:
            choice.token_ids = [chunk.token_id for chunk in chunks if chunk.token_id >= 0]
            if sequence.tokens == len(choice.token_ids):
                choice.prompt_token_ids = prompt.ids
        if last.finish_reason is not None:
            sequence.reason = choice.finish_reason = REASONS[last.finish_reason]
            choice.seed = seed
        elif (
            not text and not request.token_ids and not (choice.logprobs and choice.logprobs.tokens)
        ):
            return None
        return self._encoded(choice)

    def _echo(self, index: int, prompt: Prepared) -> bytes:
        return self._encoded(Choice(index, prompt.echoed, prompt.logprobs))

    async def _echo_alone(self) -> None:
        """Send prompts that nothing follows."""
        for place, prompt in enumerate(self._prompts):
            for index in range(self._request.returned):
                choice = Choice(
                    place * self._request.returned + index, prompt.echoed, prompt.logprobs, "length"
                )
                if self._request.token_ids:
                    choice.prompt_token_ids, choice.token_ids = prompt.ids, []
                await self._write([self._encoded(choice)])

    def _encoded(self, choice: Choice) -> bytes:
        self._event.choices = [choice]
        return b"data: %b\n\n" % _encode(self._event)

    async def _write(self, events: list[bytes]) -> None:
        body = events[0] if len(events) == 1 else b"".join(events)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _end_with(self, error: ApiError) -> None:
        self._trace.failed(error)
        body = b"data: %b\n\n" % _encode(error.answer()) + _DONE
        await self._send({"type": "http.response.body", "body": body})


def _by_sequence(
    sequences: list[_Sequence], chunks: list[Chunk]
) -> list[tuple[_Sequence, list[Chunk]]]:
    """The chunks of each sequence, in the order of their first ones."""
    if len(chunks) == 1:
        return [(sequences[chunks[0].sequence_index], chunks)]
    found: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        found.setdefault(chunk.sequence_index, []).append(chunk)
    return [(sequences[index], of_it) for index, of_it in found.items()]
