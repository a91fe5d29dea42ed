"""What callers get back: chunks of text, finished sequences, scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

FinishReason = Literal["length", "stop", "eos", "context"]


class TokenLogprobs(NamedTuple):
    """Log-probability of a chosen token, and of the likeliest ones as (id, log-probability).

    Both are the model's own, before temperature and every other setting, in nats.
    """

    logprob: float
    best: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class RequestCost:
    """What a request cost. Times are wall-clock seconds, rounded to microseconds.

    Attributes:
        queue_time: Until its first sequence got a row, or until its end where none did.
        prefill_time: From there until its first token.
        decode_time: From there until the end of its last sequence.
        shared_tokens: Tokens of its prompt that were not computed: a running sequence of another
            request, or an earlier prompt, had them.
    """

    queue_time: float
    prefill_time: float
    decode_time: float
    shared_tokens: int


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
        fingerprint: Where it is the same, a seed gives the same text: see `GPT2Ja.fingerprint`.
        cost: What the request cost, all sequences of its prompt together; results that differ in
            nothing else are equal.
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
    fingerprint: str
    cost: RequestCost = field(compare=False)
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
        logprobs: Of the token, where asked for.
    """

    text: str
    token_id: int
    sequence_index: int
    finish_reason: FinishReason | None = None
    logprobs: TokenLogprobs | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON takes them; `logprobs` only where asked for."""
        content = asdict(self)
        if self.logprobs is None:
            del content["logprobs"]
        else:
            content["logprobs"] = self.logprobs._asdict()
        return content


class RequestTimes(NamedTuple):
    """When something happened to a request, in seconds of `time.monotonic`; None before it does.

    Attributes:
        submitted: It was queued.
        started: Its first sequence got a row.
        first_token: Its first token was generated.
        ended: Its last sequence ended, or it failed.
    """

    submitted: float
    started: float | None
    first_token: float | None
    ended: float | None


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """What a model does now, and what it has done since it was loaded.

    Attributes:
        running: Sequences that have a row now.
        waiting: Sequences and texts to score that wait for one.
        waiting_tokens: Prompt tokens that wait with them.
        cache_bytes: Bytes that the key-value cache takes now.
        cache_usage: Tokens that are cached, as a part of `batch_size` rows of a whole context.
        prompt_tokens: Tokens of the prompts that were given rows so far.
        shared_tokens: Those among them that were not computed again: another row or an earlier
            prompt had them.
        steps: Steps that generated tokens.
        step_tokens: Tokens of all steps: computed ones of prompts, and generated ones.
        steps_by_size: Steps of at most 1, 2, 4, … tokens, each counted once; the last item counts
            all larger ones.
    """

    running: int
    waiting: int
    waiting_tokens: int
    cache_bytes: int
    cache_usage: float
    prompt_tokens: int
    shared_tokens: int
    steps: int
    step_tokens: int
    steps_by_size: tuple[int, ...]


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
        best: The likeliest tokens at each position as (id, log-probability), where asked for;
            None for the first.
    """

    text: str
    tokens: int
    logprob: float
    perplexity: float | None
    token_ids: list[int]
    token_logprobs: list[float | None]
    best: list[list[tuple[int, float]] | None] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON takes them; `best` only where asked for."""
        content = asdict(self)
        if self.best is None:
            del content["best"]
        return content


@dataclass(frozen=True, slots=True)
class OptionScore:
    """How likely one option is behind a prompt; log-probabilities are in nats.

    Attributes:
        option: The option; the empty string when ids were given.
        score: What options are compared by, as `normalize` says.
        logprob: Sum of `token_logprobs`.
        unconditional_logprob: The same behind the unconditional prompt; None without one.
        tokens: Number of its tokens.
        token_ids: Its tokens.
        token_logprobs: The log-probability of each.
    """

    option: str
    score: float
    logprob: float
    unconditional_logprob: float | None
    tokens: int
    token_ids: list[int]
    token_logprobs: list[float]


@dataclass(frozen=True, slots=True)
class ChoiceResult:
    """Which of several options continues a prompt best.

    Attributes:
        prompt: The prompt as it was given; the empty string when ids were given.
        best: Position of the option with the highest score, of equal ones the first.
        options: One entry an option, in the order in which they were given.
    """

    prompt: str
    best: int
    options: list[OptionScore]

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON takes them."""
        return asdict(self)
