"""What a completion is answered with, as OpenAI and vLLM write it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt2ja_onnx.results import FinishReason, RequestCost

Reason = Literal["stop", "length"]
REASONS: dict[FinishReason, Reason] = {
    "length": "length",
    "context": "length",
    "stop": "stop",
    "eos": "stop",
}


class Logprobs(msgspec.Struct):
    """Log-probabilities of the tokens of a text, in nats, before any setting.

    Attributes:
        text_offset: Where each token begins in the choice's text.
        token_logprobs: Of each token; null for the first of a prompt.
        tokens: The text of each token; they join to the choice's text.
        top_logprobs: The best tokens in each place, and the one that stands there.
    """

    text_offset: list[int] = msgspec.field(default_factory=list)
    token_logprobs: list[float | None] = msgspec.field(default_factory=list)
    tokens: list[str] = msgspec.field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = msgspec.field(default_factory=list)

    def extend(self, other: Logprobs) -> None:
        """Append those of the text that follows."""
        self.text_offset += other.text_offset
        self.token_logprobs += other.token_logprobs
        self.tokens += other.tokens
        self.top_logprobs += other.top_logprobs


class Choice(msgspec.Struct):
    """One text, or a part of it.

    Attributes:
        index: Position of its prompt, times n, plus its position among the prompt's texts.
        text: The text.
        logprobs: Where asked for.
        finish_reason: Of the last part of a text; null before.
        seed: That gives the text again; beside `finish_reason`.
        prompt_token_ids: Where asked for, beside the first part.
        token_ids: Where asked for.
    """

    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: Reason | None = None
    seed: int | msgspec.UnsetType = msgspec.UNSET
    prompt_token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


class PromptTokensDetails(msgspec.Struct):
    """What became of a request's prompts.

    Attributes:
        cached_tokens: Tokens that were not computed: an earlier prompt, or one that runs, had them.
    """

    cached_tokens: int


class Usage(msgspec.Struct):
    """What a request cost; times are seconds, of several prompts the longest.

    Attributes:
        prompt_tokens: Tokens of the prompts.
        completion_tokens: Tokens that were generated.
        total_tokens: Both.
        prompt_tokens_details: How many were cached.
        queue_time: Until a prompt's first row.
        prefill_time: From there until its first token.
        decode_time: From there until its end.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    queue_time: float
    prefill_time: float
    decode_time: float

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int, costs: Sequence[RequestCost]) -> Usage:
        """Usage of prompts that have ended; `costs` has one item each, none if only scored."""
        return cls(
            prompt_tokens,
            completion_tokens,
            prompt_tokens + completion_tokens,
            PromptTokensDetails(sum(cost.shared_tokens for cost in costs)),
            max((cost.queue_time for cost in costs), default=0.0),
            max((cost.prefill_time for cost in costs), default=0.0),
            max((cost.decode_time for cost in costs), default=0.0),
        )


class Completion(msgspec.Struct, kw_only=True):
    """An answer, or an event of a stream.

    Attributes:
        id: Of the request.
        object: Always ``text_completion``.
        created: Seconds since 1970.
        model: The model's name.
        system_fingerprint: Within which a seed gives the same text.
        choices: The texts; as JSON where they were encoded one by one.
        usage: What it cost; of a stream in the last event alone.
    """

    id: str
    object: str = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice] | list[msgspec.Raw]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
