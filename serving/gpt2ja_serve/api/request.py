"""From the body of a completion to prompts and settings that the model takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2ja_onnx.errors import SettingError
from gpt2ja_serve.api.parameters import DEFAULT_MAX_TOKENS, PARAMETERS, checked, param_of
from gpt2ja_serve.api.words import ids_of_words
from gpt2ja_serve.http.errors import refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpt2ja_onnx import GPT2Ja
    from gpt2ja_onnx.settings.config import GenerationConfig
    from gpt2ja_serve.service import Service
    from gpt2ja_serve.settings import ServeSettings

Prompt = str | list[int]
_LOGPROBS_EACH = 5  # that all sequences of the largest request may have


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What a client asks for.

    Attributes:
        prompts: Texts, or token ids.
        config: The settings of each prompt; None where nothing is to be generated.
        returned: Sequences to return per prompt.
        generated: Sequences to generate per prompt; the best of them are returned.
        logprobs: How many of the best tokens to report at every position; None for no
            log-probabilities.
        echo: Whether texts begin with their prompts.
        stream: Whether texts are sent as they come.
        include_usage: Whether a stream ends with its usage.
        token_ids: Whether token ids are returned.
    """

    prompts: list[Prompt]
    config: GenerationConfig | None
    returned: int
    generated: int
    logprobs: int | None
    echo: bool
    stream: bool
    include_usage: bool
    token_ids: bool

    @property
    def scored(self) -> bool:
        """Whether log-probabilities of the prompts are wanted."""
        return self.echo and self.logprobs is not None


def read_request(content: Mapping[str, object], service: Service) -> CompletionRequest:
    """Check the body of a completion.

    Raises:
        ApiError: Something in it is wrong; the parameter is named.
    """
    given = checked(content)
    service.check_name(given.get("model"))
    model, settings = service.model, service.settings
    prompts = prompts_of(content.get("prompt"), model.tokenizer.vocab_size)
    returned, generated = _counts(given, len(prompts), settings.max_choices)
    beams, stream = given.get("use_beam_search", False), given.get("stream", False)
    if "stream_options" in given and not stream:
        raise refused("stream_options needs stream", "stream_options")
    if stream and beams:
        raise refused("a beam search cannot be streamed", "stream")
    if stream and generated > returned:
        raise refused("best_of above n cannot be streamed", "best_of")
    echo = given.get("echo", False)
    max_tokens = given.get("max_tokens", DEFAULT_MAX_TOKENS)
    if max_tokens == 0 and not echo:
        raise refused("max_tokens 0 needs echo: nothing would be returned", "max_tokens")
    return CompletionRequest(
        prompts=prompts,
        config=_config(given, model, settings, returned, generated) if max_tokens else None,
        returned=returned,
        generated=generated,
        logprobs=given.get("logprobs"),
        echo=echo,
        stream=stream,
        include_usage=given.get("stream_options", False),
        token_ids=given.get("return_token_ids", False),
    )


def prompts_of(value: object, vocab_size: int) -> list[Prompt]:
    """A prompt as a client gives it, as a list of texts or of lists of token ids.

    Raises:
        ApiError: It is empty, or something else.
    """
    if value is None:
        raise refused("prompt is missing", "prompt")
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise refused("prompt must be a string, a list of strings, or token ids", "prompt")
    if not value or any(item in ("", []) for item in value):
        raise refused("the prompt is empty; give at least one character", "prompt")
    if all(isinstance(item, str) for item in value):
        return value
    lists = value if all(isinstance(item, list) for item in value) else [value]
    for ids in lists:
        # bool is an int, so its type is compared.
        if not all(type(token) is int and 0 <= token < vocab_size for token in ids):
            raise refused(
                "prompt must be a string, a list of strings, or token ids from 0 to "
                f"{vocab_size - 1}",
                "prompt",
            )
    return lists


def _counts(given: dict[str, Any], prompts: int, most: int) -> tuple[int, int]:
    """Sequences to return and to generate per prompt."""
    returned = given.get("n", 1)
    generated = given.get("best_of", returned)
    if generated < returned:
        raise refused(f"best_of ({generated}) must not be below n ({returned})", "best_of")
    if prompts * generated > most:
        name = "prompt" if generated == 1 else "best_of" if generated > returned else "n"
        raise refused(
            f"a request may ask for at most {most} sequences, not {prompts * generated} "
            f"({prompts} prompts of {generated})",
            name,
        )
    logprobs = given.get("logprobs") or 0
    # An answer is 0.7 kB a token with 20 of them, of texts and echoed prompts alike.
    if prompts * generated * logprobs > (entries := most * _LOGPROBS_EACH):
        raise refused(
            f"logprobs times the number of sequences may be at most {entries}, not {logprobs} "
            f"times {prompts * generated}",
            "logprobs",
        )
    return returned, generated


def _config(
    given: dict[str, Any], model: GPT2Ja, settings: ServeSettings, returned: int, generated: int
) -> GenerationConfig:
    """The settings of a generation: the bundle's defaults, and what was given."""
    values: dict[str, Any] = {"max_new_tokens": DEFAULT_MAX_TOKENS}
    for name, value in given.items():
        setting = PARAMETERS[name].setting
        if setting is not None:
            values[setting] = value
    for name in ("response_format", "structured_outputs"):
        for setting, value in given.get(name, {}).items():
            if setting in values:
                raise refused(f"{name} and {setting} exclude each other; give one of them", name)
            values[setting] = value
    if values.get("top_k") == -1:
        values["top_k"] = 0
    if "temperature" in values:
        values["do_sample"] = values["temperature"] > 0
        if not values["do_sample"]:
            del values["temperature"]
    values["num_return_sequences"] = generated
    if given.get("use_beam_search", False):
        if generated > model.batch_size:
            raise refused(
                f"a beam search has at most {model.batch_size} beams here, not {generated}",
                "best_of",
            )
        values |= {"num_beams": generated, "num_return_sequences": returned, "do_sample": False}
    elif generated > returned:
        values["logprobs"] = values.get("logprobs") or 0
    if given.get("ignore_eos", False) or given.get("stop_token_ids"):
        ends = () if given.get("ignore_eos", False) else _own_ends(model)
        values["eos_token_id"] = (*ends, *given.get("stop_token_ids", ()))
    if words := given.get("bad_words"):
        found = ids_of_words(model.tokenizer, words)
        values["bad_words_ids"] = (*values.get("bad_words_ids", ()), *found)
    values["timeout"] = min(
        values.get("timeout", settings.request_timeout), settings.request_timeout
    )
    try:
        config = model.defaults.override(values)
        config.check_together()
    except SettingError as error:
        message = " ".join(str(error).split())
        raise refused(message, param_of(message), "invalid_value") from None
    return config


def _own_ends(model: GPT2Ja) -> tuple[int, ...]:
    """The end tokens of the bundle."""
    if model.defaults.eos_token_id is not None:
        return model.defaults.eos_token_id
    eos = model.manifest.special_ids.get("eos")
    return () if eos is None else (eos,)
