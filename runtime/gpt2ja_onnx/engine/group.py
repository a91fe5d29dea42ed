"""What the engine keeps of a request: a prompt, and the sequences that continue it."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from gpt2ja_onnx.engine.channel import Channel
from gpt2ja_onnx.errors import CancelledError, GenerationError, RequestTimeoutError

if TYPE_CHECKING:
    from gpt2ja_onnx.constraints.compiler import Grammar
    from gpt2ja_onnx.device.base import Ids
    from gpt2ja_onnx.engine.queue_limit import Permit
    from gpt2ja_onnx.results import Chunk, FinishReason, TokenLogprobs
    from gpt2ja_onnx.settings.config import GenerationConfig
    from gpt2ja_onnx.text.stream import Detokenizer


class Finished(NamedTuple):
    """One finished sequence; the fields are those of `gpt2ja_onnx.results.GenerationResult`."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    logprobs: list[TokenLogprobs] | None


class SequenceGroup:
    """A prompt with its settings, and what has become of its sequences.

    A group is scheduled in units that need rows at once: single sequences, or all beams of a
    search. A unit that waits takes no memory.

    Args:
        prompt_ids: Shape (length,).
        config: All settings.
        eos: The end tokens.
        context: Tokens that the model sees at most.
        tokenizer: Spells the text; None where only ids are wanted and no stop string is set.
        stop: The stop strings, as the tokenizer normalises them.
        streamed: Whether somebody will read chunks.
        grammar: The form of the texts; None where they have none.

    Attributes:
        seed: The seed that gives its texts again.
        max_length: Tokens at which a sequence ends, those of the prompt included.
        reason_at_end: Why it ends there.
        channel: Where chunks go; closed when every sequence has ended or the group has failed.
        finished: The sequences that have ended, by index.
        error: What it failed with.
        done: Whether every sequence has ended, or the group has failed.
        waiting: Indices of the units that wait for rows.
        running: Units that have rows.
        arrival: Its place in the order of arrival; the scheduler's.
        passed: Units of later groups that got rows before it; the scheduler's.
        permit: Its place in the queue.
        submitted: When it was made; this and the next three in seconds of `time.monotonic`.
        started: When its first unit got rows.
        first_token: When its first token was generated.
        ended: When it was done.
        shared_tokens: Tokens of the prompt that were not computed for its first token.
    """

    __slots__ = (
        "__weakref__", "arrival", "cancelled", "channel", "config", "context", "deadline",
        "done", "ended", "eos", "error", "finished", "first_token", "grammar", "max_length",
        "passed", "permit", "prompt_ids", "reason_at_end", "running", "seed", "shared_tokens",
        "started", "stop", "streamed", "submitted", "tokenizer", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        prompt_ids: Ids,
        config: GenerationConfig,
        *,
        eos: tuple[int, ...],
        context: int,
        tokenizer: Detokenizer | None,
        stop: tuple[str, ...] = (),
        streamed: bool = True,
        grammar: Grammar | None = None,
    ) -> None:
        self.prompt_ids = prompt_ids
        self.config = config
        self.eos = eos
        self.context = context
        self.tokenizer = tokenizer
        self.stop = stop
        self.streamed = streamed
        self.grammar = grammar
        # Drawn seeds stay exact in JSON, whose numbers are doubles to many readers.
        drawn = config.seed is None
        self.seed = int.from_bytes(os.urandom(8)) >> 11 if drawn else config.seed or 0
        self.submitted = time.monotonic()
        self.started: float | None = None
        self.first_token: float | None = None
        self.ended: float | None = None
        self.shared_tokens = 0
        self.deadline = None if config.timeout is None else self.submitted + config.timeout
        self.channel: Channel[Chunk] = Channel()
        self.finished: dict[int, Finished] = {}
        self.error: GenerationError | None = None
        self.cancelled = False
        self.done = False
        wanted = len(prompt_ids) + config.max_new_tokens
        self.max_length = min(wanted, context)
        self.reason_at_end: FinishReason = "length" if wanted <= context else "context"
        self.waiting = deque(range(1 if self.searches else config.num_return_sequences))
        self.running = 0
        self.arrival = 0
        self.passed = 0
        self.permit: Permit | None = None

    @property
    def searches(self) -> bool:
        """Whether its sequences are the beams of a search."""
        return self.config.num_beams > 1

    @property
    def rows(self) -> int:
        """Rows that a unit needs at once."""
        return self.config.num_beams

    def finish(self, index: int, sequence: Finished) -> None:
        """Keep a sequence that has ended; the last one ends the group."""
        self.finished[index] = sequence
        if len(self.finished) == self.config.num_return_sequences:
            self._close()

    def fail(self, error: GenerationError) -> None:
        """End the group with an error; the first one counts."""
        if not self.done:
            self.error = error
            self._close()

    def fail_if_overdue(self) -> None:
        """End the group if it was cancelled or has run out of time."""
        if self.cancelled:
            self.fail(CancelledError("the request was cancelled"))
        elif self.deadline is not None and time.monotonic() >= self.deadline:
            self.fail(
                RequestTimeoutError(
                    f"the request was not finished within its timeout of {self.config.timeout} s"
                )
            )

    def _close(self) -> None:
        self.ended = time.monotonic()
        self.done = True
        if self.permit is not None:
            self.permit.release_all()
        self.channel.close()
