"""The handle of a request: what a caller holds while the engine works on it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gpt2ja_onnx.results import GenerationResult, RequestCost, RequestTimes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from gpt2ja_onnx.engine.group import SequenceGroup
    from gpt2ja_onnx.errors import GenerationError
    from gpt2ja_onnx.results import Chunk


class Request:
    """A prompt that is being continued; made by `GPT2Ja.submit`.

    Iterate it for the chunks of all its sequences as they come, those of a beam search at its
    end; call `result`, or await it, for the whole. With ``async for`` and ``await`` no thread is
    taken. A chunk is handed out once: a second loop goes on where the first one stopped. A request
    whose handle is dropped is cancelled, since nobody could read it.

    Example:
        >>> from gpt2ja_onnx import GPT2Ja
        >>> with GPT2Ja.load() as model:
        ...     request = model.submit("近年の機械学習は", max_new_tokens=4, seed=1)
        ...     results = request.result()
        >>> len(results), request.done
        (1, True)
    """

    __slots__ = ("__weakref__", "_fingerprint", "_group", "_prompt", "_prompt_index")

    def __init__(
        self,
        group: SequenceGroup,
        prompt: str,
        prompt_index: int,
        fingerprint: Callable[[], str],
    ) -> None:
        self._fingerprint = fingerprint
        self._group = group
        self._prompt = prompt
        self._prompt_index = prompt_index

    @property
    def prompt(self) -> str:
        """The prompt as it was given; the empty string when ids were given."""
        return self._prompt

    @property
    def seed(self) -> int:
        """The seed that gives its texts again."""
        return self._group.seed

    @property
    def times(self) -> RequestTimes:
        """When it was queued, started, brought its first token, and ended."""
        group = self._group
        return RequestTimes(group.submitted, group.started, group.first_token, group.ended)

    @property
    def cost(self) -> RequestCost:
        """What it has cost so far; all of it once it is done."""
        group = self._group
        now = time.monotonic() if group.ended is None else group.ended
        started = now if group.started is None else group.started
        first_token = now if group.first_token is None else group.first_token
        return RequestCost(
            queue_time=round(started - group.submitted, 6),
            prefill_time=round(first_token - started, 6),
            decode_time=round(now - first_token, 6),
            shared_tokens=group.shared_tokens,
        )

    @property
    def done(self) -> bool:
        """Whether every sequence has ended, or the request has failed."""
        return self._group.done

    @property
    def error(self) -> GenerationError | None:
        """What the request failed with; None where it did not."""
        return self._group.error

    def __repr__(self) -> str:
        state = "running"
        if self.done:
            state = "done" if self.error is None else f"failed: {self.error}"
        shown = self._prompt if len(self._prompt) <= 20 else f"{self._prompt[:20]}…"
        return f"<Request {shown!r}, seed {self.seed}, {state}>"

    def __iter__(self) -> Generator[Chunk]:
        """Chunks of all sequences as they are generated, until the request has ended.

        Raises:
            GenerationError: The request failed, timed out or was cancelled.
        """
        while (chunk := self._group.channel.get()) is not None:
            yield chunk
        self._raise()

    async def __aiter__(self) -> AsyncGenerator[Chunk]:
        """The same for asyncio."""
        while (chunk := await self._group.channel.aget()) is not None:
            yield chunk
        self._raise()

    async def batches(self) -> AsyncGenerator[list[Chunk]]:
        """The same for asyncio, all chunks at once that have come since the last ones.

        One that reads slowly gets the same chunks in fewer and longer lists.
        """
        while chunks := await self._group.channel.aget_all():
            yield chunks
        self._raise()

    def result(self) -> list[GenerationResult]:
        """Wait for all sequences; an interrupt cancels them.

        Raises:
            GenerationError: The request failed, timed out or was cancelled.
        """
        try:
            self._group.channel.join()
        except BaseException:
            self.cancel()
            raise
        self._raise()
        return self._results()

    def __await__(self) -> Generator[object, None, list[GenerationResult]]:
        """Wait for all sequences in asyncio; cancelling the task cancels them."""
        try:
            yield from self._group.channel.ajoin().__await__()
        except BaseException:
            self.cancel()
            raise
        self._raise()
        return self._results()

    def cancel(self) -> None:
        """End the request at the engine's next step; those of others are not affected."""
        self._group.cancelled = True

    def __del__(self) -> None:
        if hasattr(self, "_group"):
            self._group.cancelled = True

    def _raise(self) -> None:
        if self._group.error is not None:
            raise self._group.error

    def _results(self) -> list[GenerationResult]:
        group, cost = self._group, self.cost
        return [
            GenerationResult(
                prompt=self._prompt,
                prompt_index=self._prompt_index,
                sequence_index=index,
                text=sequence.text,
                token_ids=sequence.token_ids,
                finish_reason=sequence.finish_reason,
                prompt_tokens=len(group.prompt_ids),
                completion_tokens=len(sequence.token_ids),
                seed=group.seed,
                fingerprint=self._fingerprint(),
                cost=cost,
                logprobs=sequence.logprobs,
            )
            for index, sequence in sorted(group.finished.items())
        ]
