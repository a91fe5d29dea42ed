"""The settings as keywords, so that editors complete and type checkers check them.

Made from `gpt2ja_onnx.settings.config` by `make settings`; do not edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpt2ja_onnx.settings.kinds import LogitsProcessor


class Settings(TypedDict, total=False):
    """Every field of `GenerationConfig`, none of them needed."""

    max_new_tokens: int
    min_new_tokens: int
    stop: str | Sequence[str]
    eos_token_id: int | Sequence[int] | None
    forced_eos_token_id: int | Sequence[int]
    exponential_decay_length_penalty: tuple[int, float] | None
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    epsilon_cutoff: float
    eta_cutoff: float
    seed: int | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    logit_bias: Mapping[int, float] | Mapping[str, float]
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence[tuple[Sequence[int], float]]
    bad_words_ids: Sequence[Sequence[int]]
    suppress_tokens: int | Sequence[int]
    logits_processors: Sequence[LogitsProcessor]
    regex: str | None
    choices: Sequence[str]
    json_schema: Mapping[str, Any] | str | None
    grammar: str | None
    renormalize_logits: bool
    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    num_return_sequences: int
    logprobs: int | None
    timeout: float | None
