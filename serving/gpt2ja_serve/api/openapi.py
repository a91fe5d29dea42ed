"""The description of the API in OpenAPI 3.1, made from the declarations of its parameters."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from gpt2ja_serve.api.answers import Choice, Usage
from gpt2ja_serve.api.kinds import schema
from gpt2ja_serve.api.parameters import PARAMETERS
from gpt2ja_serve.http.errors import ErrorAnswer

_ERRORS = {
    400: "Something in the request is wrong; `param` names it.",
    401: "A key is needed.",
    403: "The host or the origin is not allowed.",
    404: "There is no such model.",
    408: "The request was not finished within its own `timeout`.",
    413: "The body is too large.",
    415: "The body is not of type application/json.",
    429: "The queue is full; try again after `Retry-After` seconds.",
    503: "The model is being loaded, or the server is shutting down.",
    504: "The request was not finished in the time that the server has for it.",
}
_JSON = "application/json"


def openapi(model_name: str) -> dict[str, Any]:
    """The description of a server.

    Args:
        model_name: What clients call its model.
    """
    _, components = msgspec.json.schema_components(
        [Choice, Usage, ErrorAnswer], ref_template="#/components/schemas/{name}"
    )
    schemas = components | {
        "CompletionRequest": _request(model_name),
        "Completion": _completion(),
        "TokenizeRequest": _object(
            {
                "model": _nullable({"const": model_name}),
                "prompt": {"type": "string"},
                "add_special_tokens": _nullable({"type": "boolean"}),
                "return_token_strs": _nullable({"type": "boolean"}),
            },
            ["prompt"],
        ),
        "DetokenizeRequest": _object(
            {
                "model": _nullable({"const": model_name}),
                "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            },
            ["tokens"],
        ),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "gpt2ja-onnx", "version": version("gpt2ja-onnx")},
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/completions": {
                "post": _post("Continue prompts.", "CompletionRequest", _answers())
            },
            "/v1/chat/completions": {
                "post": {
                    "summary": "Refused: a base model does not chat.",
                    "responses": _errors(400, 401, 403),
                }
            },
            "/v1/models": {"get": _get("The model.", {"type": "object"})},
            "/v1/models/{name}": {
                "get": _get("The model by its name.", {"type": "object"}, 404)
                | {
                    "parameters": [
                        {
                            "name": "name",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "minLength": 1},
                        }
                    ]
                }
            },
            "/tokenize": {
                "post": _post("Text to token ids.", "TokenizeRequest", _json(_tokenized()))
            },
            "/detokenize": {
                "post": _post(
                    "Token ids to text.",
                    "DetokenizeRequest",
                    _json(_object({"prompt": {"type": "string"}}, ["prompt"])),
                )
            },
            "/tokenizer_info": {"get": _get("What the tokenizer is.", {"type": "object"})},
            "/page/settings.json": {
                "get": _get("The settings that the page shows.", {"type": "array"})
            },
            "/health": {"get": _get("Alive.", {"type": "object"})},
            "/ready": {"get": _get("Loaded, and not draining.", {"type": "object"})},
            "/version": {"get": _get("Which version it is.", {"type": "object"})},
            "/metrics": {
                "get": {
                    "summary": "Prometheus metrics.",
                    "responses": {
                        "200": {
                            "description": "Metrics.",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        }
                    }
                    | _errors(401, 403),
                }
            },
        },
    }


def _request(model_name: str) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for name, parameter in PARAMETERS.items():
        described = {"description": parameter.en}
        if name == "prompt":
            properties[name] = schema(parameter.kind) | described
        elif name == "model":
            properties[name] = _nullable({"const": model_name}) | described
        else:
            properties[name] = _nullable(schema(parameter.kind)) | described
    return _object(properties, ["prompt"])


def _completion() -> dict[str, Any]:
    usage = {"$ref": "#/components/schemas/Usage"}
    return _object(
        {
            "id": {"type": "string"},
            "object": {"const": "text_completion"},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "system_fingerprint": {"type": "string"},
            "choices": {"type": "array", "items": {"$ref": "#/components/schemas/Choice"}},
            "usage": usage,
        },
        ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"],
    )


def _tokenized() -> dict[str, Any]:
    properties = {
        "count": {"type": "integer", "minimum": 0},
        "max_model_len": {"type": "integer", "minimum": 1},
        "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "token_strs": _nullable({"type": "array", "items": {"type": "string"}}),
    }
    return _object(properties, list(properties))


def _answers() -> dict[str, Any]:
    content = {
        _JSON: {"schema": {"$ref": "#/components/schemas/Completion"}},
        "text/event-stream": {"schema": {"type": "string"}},
    }
    return {"description": "The texts; as events where `stream` is set.", "content": content}


def _post(summary: str, body: str, answer: dict[str, Any]) -> dict[str, Any]:
    reference = {"schema": {"$ref": f"#/components/schemas/{body}"}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {_JSON: reference}},
        "responses": {"200": answer} | _errors(*_ERRORS),
    }


def _get(summary: str, content: dict[str, Any], *errors: int) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": _json(content)} | _errors(401, 403, 503, *errors),
    }


def _json(content: dict[str, Any]) -> dict[str, Any]:
    return {"description": "The answer.", "content": {_JSON: {"schema": content}}}


def _errors(*statuses: int) -> dict[str, Any]:
    content = {_JSON: {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    return {
        str(status): {"description": _ERRORS[status], "content": content} for status in statuses
    }


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _nullable(content: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [content, {"type": "null"}]}
