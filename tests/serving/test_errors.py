"""What is wrong is told: the status, one line, the parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gpt2ja_serve.api.kinds import Prompts, Text
from gpt2ja_serve.api.parameters import PARAMETERS

if TYPE_CHECKING:
    from tests.serving.running import Running

JSON = {"content-type": "application/json"}


def told(answer: Any, status: int) -> dict[str, Any]:
    """The error of an answer, whose shape is OpenAI's."""
    assert answer.status_code == status, answer.text
    content = answer.json()
    assert list(content) == ["error"]
    error: dict[str, Any] = content["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    assert "\n" not in error["message"]
    assert "Traceback" not in answer.text
    return error


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({}, 400, "prompt", "missing"),
        ({"prompt": None}, 400, "prompt", "missing"),
        ({"prompt": ""}, 400, "prompt", "empty"),
        ({"prompt": []}, 400, "prompt", "empty"),
        ({"prompt": ["朝", ""]}, 400, "prompt", "empty"),
        ({"prompt": [[]]}, 400, "prompt", "empty"),
        ({"prompt": "   "}, 400, "prompt", "no tokens"),
        ({"prompt": [1, "朝"]}, 400, "prompt", "token ids"),
        ({"prompt": [True]}, 400, "prompt", "token ids"),
        ({"prompt": [1.5]}, 400, "prompt", "token ids"),
        ({"prompt": [8000]}, 400, "prompt", "0 to 7999"),
        ({"prompt": [-1]}, 400, "prompt", "token ids"),
        ({"prompt": {"a": 1}}, 400, "prompt", "token ids"),
        ({"prompt": [9] * 1025}, 400, "prompt", "the context is 1024"),
        ({"prompt": ["朝", "朝" * 3000]}, 400, "prompt", "prompt 1: "),
        ({"prompt": "朝", "model": "gpt-4"}, 404, "model", "'demo'"),
        ({"prompt": "朝", "modle": "demo"}, 400, "modle", "unknown parameter"),
        ({"prompt": "朝", "suffix": "夜"}, 400, "suffix", "not supported"),
        ({"prompt": "朝", "max_tokens": 0}, 400, "max_tokens", "echo"),
        ({"prompt": "朝", "max_tokens": -1}, 400, "max_tokens", "at least 0"),
        ({"prompt": "朝", "logprobs": 21}, 400, "logprobs", "at most 20"),
        ({"prompt": "朝", "n": 100, "logprobs": 20}, 400, "logprobs", "at most 640"),
        ({"prompt": "朝", "n": 200}, 400, "n", "at most 128"),
        ({"prompt": ["朝"] * 200}, 400, "prompt", "at most 128"),
        ({"prompt": "朝", "n": 3, "best_of": 2}, 400, "best_of", "below n"),
        ({"prompt": "朝", "best_of": 3, "stream": True}, 400, "best_of", "streamed"),
        ({"prompt": "朝", "use_beam_search": True, "stream": True}, 400, "stream", "beam"),
        ({"prompt": "朝", "use_beam_search": True, "best_of": 64}, 400, "best_of", "32 beams"),
        ({"prompt": "朝", "stream_options": {}}, 400, "stream_options", "needs stream"),
        (
            {"prompt": "朝", "stream": True, "stream_options": {"x": 1}},
            400,
            "stream_options",
            "unknown field",
        ),
        ({"prompt": "朝", "min_tokens": 20}, 400, "min_tokens", "max_new_tokens"),
        ({"prompt": "朝", "suppress_tokens": [8000]}, 400, "suppress_tokens", "below 8000"),
        ({"prompt": "朝", "stop_token_ids": [8000]}, 400, "stop_token_ids", "below 8000"),
        ({"prompt": "朝", "stop": ["。"] * 65}, 400, "stop", "at most 64"),
        ({"prompt": "朝", "bad_words": ["あ" * 1025]}, 400, "bad_words", "1024 characters"),
        ({"prompt": "朝", "logits_processors": []}, 400, "logits_processors", "unknown"),
        ({"prompt": "朝", "timeout": 0}, 400, "timeout", "above 0"),
    ],
    ids=str,
)
def test_a_wrong_request(
    served: Running, body: dict[str, Any], status: int, param: str, message: str
) -> None:
    error = told(served.complete(**body), status)
    assert error["param"] == param
    assert message in error["message"]


WRONG: list[Any] = ["x", 1, -1, 1.5, True, [], {}, ["x"], [[]], [1.5], {"a": "b"}, 1e40, [None]]


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_a_value_of_the_wrong_type_names_the_parameter(served: Running, name: str) -> None:
    refused = 0
    for value in WRONG:
        answer = served.complete(**{"prompt": "朝", "max_tokens": 1, name: value})
        if answer.status_code == 200:
            continue
        status = 404 if name == "model" and isinstance(value, str) else 400
        error = told(answer, status)
        assert error["param"] in (name, "max_tokens", "n", "best_of")
        refused += 1
    accepts_strings = isinstance(PARAMETERS[name].kind, Text | Prompts)
    assert refused >= (5 if accepts_strings else 8)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"prompt": NaN}',
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\\ud800"}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"temperature": 1e999, "prompt": "x"}',
        b'{"seed": ' + b"9" * 5000 + b', "prompt": "x"}',
        b'"text"',
        b"[]",
        b"null",
        "{'prompt': 'x'}".encode("utf-16"),
        b"\xff\xfe\x00",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_body_that_is_no_request(served: Running, body: bytes) -> None:
    told(served.client.post("/v1/completions", content=body, headers=JSON), 400)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_of_another_type(served: Running, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = served.client.post("/v1/completions", content=b'{"prompt": "x"}', headers=headers)
    assert "application/json" in told(answer, 415)["message"]


def test_a_base_model_does_not_chat(served: Running) -> None:
    answer = served.client.post("/v1/chat/completions", json={"messages": []})
    error = told(answer, 400)
    assert "base model" in error["message"]
    assert "/v1/completions" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/health", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/other", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
    ],
)
def test_a_path_that_is_not_there(served: Running, method: str, path: str, status: int) -> None:
    told(served.client.request(method, path), status)


def test_a_request_out_of_its_own_time_is_408(served: Running) -> None:
    body = {"prompt": "朝", "max_tokens": 1000, "ignore_eos": True, "timeout": 0.02}
    answer = served.complete(**body)
    error = told(answer, 408)
    assert error["code"] == "timeout"
    assert "0.02 s" in error["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_an_error_in_a_stream_is_an_event(served: Running) -> None:
    body = {"prompt": "朝", "max_tokens": 1000, "ignore_eos": True, "timeout": 0.1, "stream": True}
    with served.client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert '"error":{"message":"the request was not finished within' in lines[-2]
