"""One sequence while it is generated: its ids, its sampler's state, its text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gpt2ja_onnx.engine.group import Finished
from gpt2ja_onnx.results import Chunk
from gpt2ja_onnx.sampling.state import SamplerState, random_stream
from gpt2ja_onnx.text.stream import TextStream

if TYPE_CHECKING:
    from gpt2ja_onnx.device.base import Scores
    from gpt2ja_onnx.engine.group import SequenceGroup
    from gpt2ja_onnx.results import FinishReason, TokenLogprobs
    from gpt2ja_onnx.sampling.beam_search import Move


class Search(Protocol):
    """A beam search, of which sequences are the beams.

    Attributes:
        sequences: One a beam, by beam.
    """

    sequences: list[Sequence]

    def advance(self, scores: Scores) -> list[Move]:
        """Take one step; see `gpt2ja_onnx.sampling.beam_search.BeamSearch.advance`."""
        ...


class Sequence:
    """One sequence of a group, or one beam of its search, while it has a row.

    Attributes:
        group: The group it belongs to.
        index: Its position among the group's sequences or beams.
        search: The search that it is a beam of; None for a sequence of its own.
        state: What the sampler knows of it; `state.history` holds prompt and text.
        text: Its text so far; None where only ids are wanted.
        logprobs: One entry a generated token, where asked for.
        finish_reason: Why it ended; None before.
    """

    __slots__ = (
        "_history", "finish_reason", "group", "index", "logprobs", "search", "state", "text",
    )  # fmt: skip

    def __init__(self, group: SequenceGroup, index: int, search: Search | None = None) -> None:
        self.group = group
        self.index = index
        self.search = search
        self._history = np.zeros(group.max_length, dtype=np.int64)
        length = len(group.prompt_ids)
        self._history[:length] = group.prompt_ids
        self.state = SamplerState(
            config=group.config,
            eos=group.eos,
            random=random_stream(group.seed, index),
            history=self._history[:length],
            prompt_length=length,
            max_length=group.max_length,
            constraint=None if group.grammar is None else group.grammar.start(group.eos),
        )
        self.text = None if group.tokenizer is None else TextStream(group.tokenizer, group.stop)
        self.logprobs: list[TokenLogprobs] = []
        self.finish_reason: FinishReason | None = None

    @property
    def length(self) -> int:
        """Tokens of prompt and text."""
        return len(self.state.history)

    @property
    def begun(self) -> bool:
        """Whether a token was generated."""
        return self.length > self.state.prompt_length

    @property
    def ended(self) -> bool:
        """Whether it needs its row no longer."""
        return self.finish_reason is not None or self.group.done

    def append(self, token: int) -> None:
        """Take the next token, hand out what it brings, and end where the text ends."""
        group, text, reason = self.group, self.text, self.finish_reason
        length = len(self.state.history) + 1
        if group.first_token is None:
            group.first_token = time.monotonic()
        self._history[length - 1] = token
        self.state.history = self._history[:length]
        chunk = ""
        if token in group.eos:
            reason = "eos"
        elif text is not None:
            chunk = text.push(token)
            if text.stopped:
                reason = "stop"
        constraint = self.state.constraint
        if constraint is not None and reason is None:
            constraint.advance(token)
            if constraint.complete:
                reason = "stop"
        if reason is None and length == group.max_length:
            reason = group.reason_at_end
        if reason is not None and text is not None:
            chunk += text.finish()
        self.finish_reason = reason
        if group.streamed:
            # Of a beam's text all are there before its tokens are handed out.
            place = length - self.state.prompt_length - 1
            logprobs = self.logprobs[place] if self.logprobs else None
            group.channel.put(Chunk(chunk, token, self.index, reason, logprobs))
        if reason is not None:
            group.finish(self.index, self._finished(reason))

    def end_without_room(self) -> None:
        """End a sequence whose prompt fills the context."""
        self.finish_reason = "context"
        if self.group.streamed:
            self.group.channel.put(Chunk("", -1, self.index, "context"))
        self.group.finish(self.index, self._finished("context"))

    def _finished(self, reason: FinishReason) -> Finished:
        return Finished(
            text="" if self.text is None else self.text.text,
            token_ids=self.state.history[self.state.prompt_length :].tolist(),
            finish_reason=reason,
            logprobs=None if self.group.config.logprobs is None else self.logprobs,
        )
