"""Kinds of parameters that are no settings of the runtime, and the JSON schema of every kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpt2ja_onnx.errors import SettingError
from gpt2ja_onnx.settings import kinds as runtime_kinds
from gpt2ja_onnx.settings.kinds import (
    LARGEST,
    MOST,
    Choices,
    EarlyStopping,
    Flag,
    LengthDecay,
    Number,
    Schema,
    SequenceBiases,
    Source,
    Strings,
    TokenBiases,
    TokenIds,
    TokenLists,
    Whole,
)

if TYPE_CHECKING:
    from gpt2ja_onnx.settings.kinds import Kind

# Every item is looked for at every token, in the thread that all requests share.
MOST_ITEMS = 1024
MOST_STOPS = 64
MOST_CHARACTERS = 1024  # of a string that is looked for
_OBJECT = {"type": "object"}
_ID = {"type": "integer", "minimum": 0}


class Text:
    """One string."""

    accepts = "str"

    def check(self, name: str, value: object) -> str:
        """See `gpt2ja_onnx.settings.kinds.Kind`."""
        if not isinstance(value, str):
            raise SettingError(f"{name} must be a string, not {type(value).__name__}")
        return value


class Prompts:
    """A string, strings, token ids, or lists of token ids; checked by `prompts_of`."""

    accepts = "str | list[str] | list[int] | list[list[int]]"

    def check(self, name: str, value: object) -> Any:
        """See `gpt2ja_onnx.settings.kinds.Kind`."""
        return value


class StreamOptions:
    """What a stream has beside its text."""

    accepts = "dict[str, bool]"

    def check(self, name: str, value: object) -> bool:
        """Whether usage is wanted; see `gpt2ja_onnx.settings.kinds.Kind`."""
        if not isinstance(value, dict):
            raise SettingError(f"{name} must be an object, not {type(value).__name__}")
        if unknown := sorted(map(str, value.keys() - {"include_usage"})):
            raise SettingError(f"{name} has an unknown field {unknown[0]!r}; known: include_usage")
        wanted = value.get("include_usage")
        if wanted is not None and not isinstance(wanted, bool):
            raise SettingError(f"{name}.include_usage must be true or false")
        return bool(wanted)


class ResponseFormat:
    """OpenAI's form of a text; kept as settings of the runtime."""

    accepts = "dict[str, Any]"

    def check(self, name: str, value: object) -> dict[str, Any]:
        """See `gpt2ja_onnx.settings.kinds.Kind`."""
        if not isinstance(value, dict):
            raise SettingError(f"{name} must be an object, not {type(value).__name__}")
        match value.get("type"):
            case "text":
                return {}
            case "json_object":
                return {"json_schema": Schema().check(name, _OBJECT)}
            case "json_schema":
                given = value.get("json_schema")
                if not isinstance(given, dict) or not isinstance(given.get("schema"), dict):
                    raise SettingError(f"{name}.json_schema.schema must be an object")
                return {"json_schema": Schema().check(name, given["schema"])}
            case other:
                raise SettingError(
                    f"{name}.type must be text, json_object or json_schema, not {other!r:.80}"
                )


class StructuredOutputs:
    """vLLM's form of a text; kept as settings of the runtime."""

    accepts = "dict[str, Any]"

    def check(self, name: str, value: object) -> dict[str, Any]:
        """See `gpt2ja_onnx.settings.kinds.Kind`."""
        if not isinstance(value, dict):
            raise SettingError(f"{name} must be an object, not {type(value).__name__}")
        kinds: dict[str, tuple[str, Kind]] = {
            "regex": ("regex", Source()),
            "choice": ("choices", Choices()),
            "json": ("json_schema", Schema()),
            "grammar": ("grammar", Source()),
        }
        given = {field: item for field, item in value.items() if item is not None}
        anything = given.pop("json_object", False)
        if not isinstance(anything, bool):
            raise SettingError(f"{name}.json_object must be true or false")
        if unknown := sorted(map(str, given.keys() - kinds.keys())):
            known = ", ".join([*kinds, "json_object"])
            raise SettingError(f"{name} has an unknown field {unknown[0]!r:.80}; known: {known}")
        if len(given) + anything != 1:
            raise SettingError(f"{name} must have exactly one form")
        if anything:
            return {"json_schema": Schema().check(name, _OBJECT)}
        ((field, item),) = given.items()
        setting, kind = kinds[field]
        return {setting: kind.check(f"{name}.{field}", item)}


class Short:
    """Another kind's lists, with no more items than can be looked for at every token.

    Args:
        kind: The other kind.
        most: Items of a list.
    """

    def __init__(self, kind: Strings | TokenLists | SequenceBiases, most: int = MOST_ITEMS) -> None:
        self.kind = kind
        self.most = most
        self.accepts = kind.accepts

    def check(self, name: str, value: object) -> Any:
        """See `gpt2ja_onnx.settings.kinds.Kind`."""
        found = self.kind.check(name, value)
        if len(found) > self.most:
            raise SettingError(f"{name} must have at most {self.most} items, not {len(found)}")
        if any(isinstance(item, str) and len(item) > MOST_CHARACTERS for item in found):
            raise SettingError(f"{name} must hold strings of at most {MOST_CHARACTERS} characters")
        return found


def schema(kind: Kind) -> dict[str, Any]:
    """The JSON schema (2020-12) of the values that a kind takes, null aside."""
    match kind:
        case Flag():
            return {"type": "boolean"}
        case Whole():
            return {"type": "integer", "minimum": kind.low} | (
                {"maximum": kind.high} if kind.high < MOST or kind.high > 2**62 else {}
            )
        case Number():
            low = "minimum" if kind.with_low else "exclusiveMinimum"
            high = "maximum" if kind.with_high else "exclusiveMaximum"
            return {"type": "number", low: kind.low} | (
                {high: kind.high} if kind.high < LARGEST else {}
            )
        case Text():
            return {"type": "string"}
        case Short():
            bound = {"maxItems": kind.most}
            inner = schema(kind.kind)
            if "anyOf" in inner:
                string = {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS}
                return {"anyOf": [string, {"type": "array", "items": string} | bound]}
            return inner | bound
        case Strings():
            string = {"type": "string", "minLength": 1}
            return {"anyOf": [string, {"type": "array", "items": string}]}
        case TokenIds():
            return {"anyOf": [_ID, {"type": "array", "items": _ID}]}
        case TokenLists():
            return {"type": "array", "items": {"type": "array", "items": _ID, "minItems": 1}}
        case TokenBiases():
            bias = {"type": "number", "minimum": -kind.limit, "maximum": kind.limit}
            return {"type": "object", "additionalProperties": bias}
        case SequenceBiases():
            pair = [{"type": "array", "items": _ID, "minItems": 1}, {"type": "number"}]
            item = {"type": "array", "prefixItems": pair, "minItems": 2, "maxItems": 2}
            return {"type": "array", "items": item}
        case LengthDecay():
            pair = [_ID, {"type": "number", "exclusiveMinimum": 0}]
            return {"type": "array", "prefixItems": pair, "minItems": 2, "maxItems": 2}
        case Source():
            return {"type": "string", "minLength": 1, "maxLength": runtime_kinds.MOST_CHARACTERS}
        case Choices():
            string = {"type": "string", "minLength": 1, "pattern": r"\S"}
            return {"type": "array", "items": string}
        case Schema():
            return {"anyOf": [{"type": "object"}, {"type": "string"}]}
        case ResponseFormat():
            return {
                "type": "object",
                "properties": {
                    "type": {"enum": ["text", "json_object", "json_schema"]},
                    "json_schema": {
                        "type": "object",
                        "properties": {"schema": {"type": "object"}},
                        "required": ["schema"],
                    },
                },
                "required": ["type"],
            }
        case StructuredOutputs():
            return {
                "type": "object",
                "properties": {
                    "regex": schema(Source()),
                    "choice": schema(Choices()),
                    "json": schema(Schema()),
                    "json_object": {"type": "boolean"},
                    "grammar": schema(Source()),
                },
                "additionalProperties": False,
            }
        case EarlyStopping():
            return {"enum": [True, False, "never"]}
        case StreamOptions():
            return {
                "type": "object",
                "properties": {"include_usage": {"type": "boolean"}},
                "additionalProperties": False,
            }
        case Prompts():
            ids = {"type": "array", "items": _ID, "minItems": 1}
            texts = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
            lists = {"type": "array", "items": ids, "minItems": 1}
            return {"anyOf": [{"type": "string", "minLength": 1}, texts, ids, lists]}
        case _:
            raise AssertionError(f"no schema is known for {kind!r}")
