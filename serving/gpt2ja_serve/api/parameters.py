"""The parameters of a completion: names of OpenAI and vLLM, checked as the runtime's settings are.

A setting of the runtime is a parameter under its own name, unless `_RENAMED` or `_LEFT_OUT` says
otherwise; so a new setting is taken, described and shown on the page without a line here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gpt2ja_onnx.errors import SettingError
from gpt2ja_onnx.settings.config import GenerationConfig
from gpt2ja_onnx.settings.kinds import (
    Choices,
    Flag,
    Number,
    SequenceBiases,
    Source,
    Strings,
    TokenIds,
    TokenLists,
    Whole,
)
from gpt2ja_serve.api.kinds import (
    MOST_STOPS,
    Prompts,
    ResponseFormat,
    Short,
    StreamOptions,
    StructuredOutputs,
    Text,
)
from gpt2ja_serve.http.errors import refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpt2ja_onnx.settings.config import Declaration
    from gpt2ja_onnx.settings.kinds import Kind

MOST_LOGPROBS = 20  # as vLLM
DEFAULT_MAX_TOKENS = 16  # as OpenAI and vLLM

_RENAMED = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "num_return_sequences": "n",
}
# What is said otherwise here: temperature 0, use_beam_search, ignore_eos and stop_token_ids.
_LEFT_OUT = {"do_sample", "num_beams", "eos_token_id", "logits_processors"}
_SUFFIX = "suffix is not supported: the model continues text, it does not fill gaps"


class Parameter(NamedTuple):
    """One parameter of a completion.

    Attributes:
        kind: How its values are checked.
        setting: The setting of the runtime that it is; None where it is another thing.
        group: What the page lists it with; None where the page has its own place for it.
        en: What it does, in English.
        ja: The same in Japanese.
    """

    kind: Kind
    setting: str | None
    group: str | None
    en: str
    ja: str = ""


def _own() -> dict[str, Parameter]:
    """Parameters that are no settings of the runtime."""
    return {
        "model": Parameter(Text(), None, None, "The model's name; the only one where absent."),
        "prompt": Parameter(
            Prompts(),
            None,
            None,
            "What to continue: a string, strings, token ids, or lists of them.",
        ),
        "stream": Parameter(Flag(), None, None, "Send the text as it comes, as events."),
        "stream_options": Parameter(
            StreamOptions(), None, None, "include_usage: end a stream with its usage."
        ),
        "echo": Parameter(Flag(), None, None, "Begin the text with the prompt."),
        "user": Parameter(Text(), None, None, "Not used."),
        "best_of": Parameter(
            Whole(1, 4096),
            None,
            "beams",
            "Beams of a beam search; without one, sequences of which the n with the highest mean "
            "log-probability are returned. Absent, it is n.",
            "ビームサーチのビーム数。ビームサーチでない場合は、この数だけ生成し、平均対数確率の"
            "高い n 個を返す。省略時は n",
        ),
        "use_beam_search": Parameter(
            Flag(),
            None,
            "beams",
            "Search with best_of beams instead of drawing tokens; cannot be streamed.",
            "サンプリングせず、best_of 個のビームで探索する（ストリーミング不可）",
        ),
        "ignore_eos": Parameter(
            Flag(),
            None,
            "length",
            "Go on after the end token.",
            "終端トークンが出ても生成を続ける",
        ),
        "stop_token_ids": Parameter(
            TokenIds(),
            None,
            "length",
            "End at one of these tokens too.",
            "これらのトークンでも終了する",
        ),
        "bad_words": Parameter(
            Short(Strings()),
            None,
            "tokens",
            "Words whose usual tokens must not occur in a row.",
            "出力を禁止する語（通常の分割でのトークン列を禁止）",
        ),
        "response_format": Parameter(
            ResponseFormat(),
            None,
            None,
            "OpenAI's form of the text: json_object, or json_schema as with json_schema.",
        ),
        "structured_outputs": Parameter(
            StructuredOutputs(),
            None,
            None,
            "vLLM's form of the text: one of regex, choice, json, json_object and grammar.",
        ),
        "add_special_tokens": Parameter(
            Flag(), None, None, "Taken for vLLM's sake; the tokenizer adds none."
        ),
        "return_token_ids": Parameter(
            Flag(), None, None, "Return the token ids of prompts and texts as well."
        ),
    }


def _kind(name: str, declaration: Declaration) -> Kind:
    """How the API checks a setting: some take more or less than in Python."""
    kinds: dict[str, Kind] = {
        "max_new_tokens": Whole(0),
        "temperature": Number(0),
        "top_k": Whole(-1),
        "logprobs": Whole(0, MOST_LOGPROBS, optional=True),
    }
    if name in kinds:
        return kinds[name]
    match declaration.kind:
        case Strings() as kind:
            return Short(kind, MOST_STOPS)
        case TokenLists() | SequenceBiases() as kind:
            return Short(kind)
        case kind:
            return kind


def _all() -> dict[str, Parameter]:
    found = _own()
    notes: dict[str, tuple[str, str]] = {
        "temperature": ("0 takes the likeliest token.", "0 は最も確率の高いトークンを選ぶ"),
        "max_new_tokens": ("0 with echo scores the prompt.", "echo と 0 でプロンプトを採点する"),
    }
    for name, item in GenerationConfig.declared().items():
        if name in _LEFT_OUT:
            continue
        declaration: Declaration = item.metadata["declaration"]
        en, ja = declaration.en, declaration.ja
        for setting, api in _RENAMED.items():
            en, ja = en.replace(setting, api), ja.replace(setting, api)
        if name in notes:
            en, ja = f"{en} {notes[name][0]}", f"{ja}。{notes[name][1]}"
        api_name = _RENAMED.get(name, name)
        found[api_name] = Parameter(_kind(name, declaration), name, declaration.group, en, ja)
    return found


PARAMETERS = _all()


def checked(content: Mapping[str, object]) -> dict[str, Any]:
    """The parameters that a client gave, checked one by one; null is taken for absent.

    Raises:
        ApiError: A parameter is unknown, not supported, or out of its range; it is named.
    """
    found: dict[str, Any] = {}
    for name, value in content.items():
        if name == "suffix":
            if value is not None:
                raise refused(_SUFFIX, name, "unsupported_parameter")
            continue
        if name not in PARAMETERS:
            shown = name if len(name) <= 80 else f"{name[:80]}…"
            known = ", ".join(sorted(PARAMETERS))
            raise refused(
                f"unknown parameter {shown!r}; known are {known}", shown, "unknown_parameter"
            )
        if value is None:
            continue
        try:
            found[name] = PARAMETERS[name].kind.check(name, value)
        except SettingError as error:
            raise refused(_one_line(error), name, "invalid_value") from None
    return found


def param_of(message: str) -> str | None:
    """The parameter that a message of the runtime begins with."""
    word = message.partition(" ")[0]
    if word == "eos_token_id":
        return "stop_token_ids"
    word = _RENAMED.get(word, word)
    return word if word in PARAMETERS else None


def page_type(kind: Kind) -> Literal["integer", "number", "boolean", "strings", "text", "json"]:
    """How the page asks for a value; lists and mappings of token ids are typed as JSON."""
    match kind:
        case Flag():
            return "boolean"
        case Whole():
            return "integer"
        case Number():
            return "number"
        case Short(kind=Strings()) | Choices():
            return "strings"
        case Source():
            return "text"
        case _:
            return "json"


def api_default(name: str, defaults: GenerationConfig) -> Any:
    """What a parameter is where a client does not give it, as JSON."""
    parameter = PARAMETERS[name]
    if name == "max_tokens":
        return DEFAULT_MAX_TOKENS
    if name == "temperature" and not defaults.do_sample:
        return 0
    if parameter.setting is None:
        return False if isinstance(parameter.kind, Flag) else None
    value = getattr(defaults, parameter.setting)
    if name == "logit_bias":
        return {str(token): bias for token, bias in value}
    return list(value) if isinstance(value, tuple) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
