"""Requests and their sequences: what the engine works on, and what it hands back."""

from __future__ import annotations

import os
import queue
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from gpt2ja_onnx.errors import CancelledError, GenerationError, RequestTimeoutError
from gpt2ja_onnx.sampling.sampler import SamplerState, random_stream
from gpt2ja_onnx.text.stream import TextStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gpt2ja_onnx.device.logits import Logits
    from gpt2ja_onnx.engine.beam_group import BeamGroup
    from gpt2ja_onnx.settings import GenerationConfig
    from gpt2ja_onnx.text.tokenizer import Tokenizer

FinishReason = Literal["length", "stop", "eos", "context"]


class TokenLogprobs(NamedTuple):
    """Log-probability of a chosen token, and of the likeliest ones as (id, log-probability)."""

    logprob: float
    best: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """One finished sequence.

    Attributes:
        prompt: The prompt as it was given; the empty string when ids were given.
        prompt_index: Position of the prompt in the call.
        sequence_index: Position among the sequences of the prompt.
        text: The continuation alone; ends before a stop string.
        token_ids: Its tokens; the end token, or the tokens of a stop string, included.
        finish_reason: ``length``, ``stop``, ``eos`` or ``context``.
        prompt_tokens: Number of the prompt's tokens.
        completion_tokens: Number of `token_ids`.
        seed: The seed that gives this text again.
        logprobs: One entry a token, where asked for.
    """

    prompt: str
    prompt_index: int
    sequence_index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seed: int
    logprobs: list[TokenLogprobs] | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one token of a sequence brought, in the order in which it was generated.

    Attributes:
        text: The text that the token made certain; empty while a character is incomplete or a
            stop string may have begun.
        token_id: The token; -1 for a sequence that ends before its first one.
        sequence_index: Position among the sequences of the prompt.
        finish_reason: Of the last chunk of a sequence; None before.
    """

    text: str
    token_id: int
    sequence_index: int
    finish_reason: FinishReason | None = None


class Sequence:
    """One sequence of a request, or one beam of its search, while it is generated.

    Attributes:
        request: The request it belongs to.
        index: Its position among the request's sequences or beams.
        group: The beams that it is one of; None for a sequence of its own.
        state: What the sampler knows of it; `state.history` holds prompt and text.
        text: Its text so far.
        logprobs: One entry a generated token, where asked for.
        finish_reason: Why it ended; None before.
    """

    __slots__ = (
        "_history", "finish_reason", "group", "index", "logprobs", "request", "state", "text",
    )  # fmt: skip

    def __init__(self, request: Request, index: int, group: BeamGroup | None = None) -> None:
        self.request = request
        self.index = index
        self.group = group
        room = request.max_length
        self._history = np.zeros(room, dtype=np.int64)
        length = len(request.prompt_ids)
        self._history[:length] = request.prompt_ids
        self.state = SamplerState(
            config=request.config,
            eos=request.eos,
            random=random_stream(request.seed, index),
            history=self._history[:length],
            prompt_length=length,
        )
        self.text = TextStream(request.tokenizer, request.config.stop)
        self.logprobs: list[TokenLogprobs] = []
        self.finish_reason: FinishReason | None = None

    @property
    def rows(self) -> int:
        """Rows that must be free when it starts: its own, and those of the beams after it."""
        return 1 if self.group is None else self.request.config.num_beams - self.index

    @property
    def length(self) -> int:
        """Tokens of prompt and text."""
        return len(self.state.history)

    def append(self, token: int) -> str:
        """Take the next token; return the text that it makes certain.

        Sets `finish_reason` when the sequence ends with it.
        """
        length = self.length + 1
        self._history[length - 1] = token
        self.state.history = self._history[:length]
        if token == self.request.eos:
            self.finish_reason = "eos"
            return self.text.finish()
        chunk = self.text.push(token)
        if self.text.stopped:
            self.finish_reason = "stop"
        elif length == self.request.max_length:
            self.finish_reason = self.request.reason_at_end
            chunk += self.text.finish()
        return chunk

    def result(self) -> GenerationResult:
        """The finished sequence."""
        assert self.finish_reason is not None
        request = self.request
        token_ids = self.state.history[self.state.prompt_length :].tolist()
        return GenerationResult(
            prompt=request.prompt,
            prompt_index=request.prompt_index,
            sequence_index=self.index,
            text=self.text.text,
            token_ids=token_ids,
            finish_reason=self.finish_reason,
            prompt_tokens=self.state.prompt_length,
            completion_tokens=len(token_ids),
            seed=request.seed,
            logprobs=None if request.config.logprobs is None else self.logprobs,
        )


@dataclass(eq=False, slots=True)
class Request:
    """A prompt with its settings: the handle that a caller holds and the engine works on.

    Iterating gives the chunks of all its sequences as they come, those of a beam search at its
    end; `result` waits for the end; `cancel` ends it. A request is made by
    `GPT2Ja.submit`.

    Attributes:
        done: Whether every sequence has ended, or the request failed.
        error: What it failed with.
        seed: The seed that gives its texts again.
    """

    prompt: str
    prompt_index: int
    prompt_ids: NDArray[np.int64]
    config: GenerationConfig
    tokenizer: Tokenizer
    eos: int | None
    context: int
    seed: int = -1
    deadline: float | None = None
    first_choice: tuple[NDArray[np.float32], NDArray[np.int64], Logits] | None = None
    error: GenerationError | None = None
    results: dict[int, GenerationResult] = field(default_factory=dict)
    cancelled: bool = False
    done: bool = False
    _events: queue.SimpleQueue[Chunk | None] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        if self.seed < 0:
            given = self.config.seed
            # Drawn seeds stay exact in JSON, whose numbers are doubles to many readers.
            self.seed = int.from_bytes(os.urandom(8)) >> 11 if given is None else given
        if self.config.timeout is not None:
            self.deadline = time.monotonic() + self.config.timeout

    @property
    def max_length(self) -> int:
        """Tokens at which a sequence ends, those of the prompt included."""
        return min(len(self.prompt_ids) + self.config.max_new_tokens, self.context)

    @property
    def reason_at_end(self) -> FinishReason:
        """Why a sequence ends at `max_length`."""
        wanted = len(self.prompt_ids) + self.config.max_new_tokens
        return "length" if wanted <= self.context else "context"

    def __iter__(self) -> Iterator[Chunk]:
        """Chunks of all sequences as they are generated, until the request has ended.

        Raises:
            GenerationError: The request failed, timed out or was cancelled.
        """
        while (chunk := self._events.get()) is not None:
            yield chunk
        self._events.put(None)  # for the next one who waits
        if self.error is not None:
            raise self.error

    def result(self) -> list[GenerationResult]:
        """Wait for all sequences.

        Raises:
            GenerationError: The request failed, timed out or was cancelled.
        """
        for _ in self:
            pass
        return [self.results[index] for index in sorted(self.results)]

    def cancel(self) -> None:
        """End the request at the engine's next step; the rows of others are not affected."""
        self.cancelled = True

    # --- for the engine ---

    def deliver(self, sequence: Sequence, text: str, token_id: int = -1) -> None:
        """Hand out what a token brought, and the sequence when it has ended."""
        self._events.put(Chunk(text, token_id, sequence.index, sequence.finish_reason))
        if sequence.finish_reason is not None:
            self.results[sequence.index] = sequence.result()
            if len(self.results) == self.config.num_return_sequences:
                self.done = True
                self.first_choice = None
                self._events.put(None)

    def fail(self, error: GenerationError) -> None:
        """End the request with an error; the first one counts."""
        if not self.done:
            self.error = error
            self.done = True
            self.first_choice = None
            self._events.put(None)

    def overdue(self) -> GenerationError | None:
        """The error of a request that was cancelled or has run out of time."""
        if self.cancelled:
            return CancelledError("the request was cancelled")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return RequestTimeoutError(
                f"the request was not finished within its timeout of {self.config.timeout} s"
            )
        return None
