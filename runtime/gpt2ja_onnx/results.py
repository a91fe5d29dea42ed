"""What callers get back: chunks of text, finished sequences, scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

FinishReason = Literal["length", "stop", "eos", "context"]


class TokenLogprobs(NamedTuple):
    """Log-probability of a chosen token, and of the likeliest ones as (id, log-probability).

    Both are the model's own, before temperature and every other setting, in nats.
    """

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
        logprobs: One entry per token, where asked for.
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

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON takes them; `logprobs` only where asked for."""
        content = asdict(self)
        if self.logprobs is None:
            del content["logprobs"]
        else:
            content["logprobs"] = [entry._asdict() for entry in self.logprobs]
        return content


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

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON takes them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a text is.

    Attributes:
        text: The text; the empty string when ids were given.
        tokens: Number of its tokens.
        logprob: Sum of the log-probabilities, in nats, of all tokens but the first, which has
            nothing before it to be predicted from.
        perplexity: exp(-logprob / (tokens - 1)); None for fewer than two tokens.
        token_ids: The tokens.
        token_logprobs: The log-probability of each token; None for the first.
    """

    text: str
    tokens: int
    logprob: float
    perplexity: float | None
    token_ids: list[int]
    token_logprobs: list[float | None]

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON takes them."""
        return asdict(self)
