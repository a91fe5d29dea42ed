"""What a server tells of itself: status, models, tokens, metrics, its own description."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gpt2ja_serve.api.openapi import openapi
from gpt2ja_serve.api.parameters import PARAMETERS
from gpt2ja_serve.app import make_app
from gpt2ja_serve.service import Service
from gpt2ja_serve.settings import ServeSettings
from tests.serving.running import in_thread
from tests.serving.test_errors import told

if TYPE_CHECKING:
    from tests.serving.running import Running

PROMPT = "近年の機械学習は"


def test_status(served: Running) -> None:
    assert served.client.get("/health").json() == {"status": "ok"}
    assert served.client.get("/ready").json() == {"status": "ready"}
    assert served.client.get("/version").json()["version"] == "0.1.0"
    assert served.client.head("/health").status_code == 200


def test_the_model(served: Running) -> None:
    (card,) = served.client.get("/v1/models").json()["data"]
    assert served.client.get("/v1/models/demo").json() == card
    assert (card["id"], card["object"]) == ("demo", "model")
    assert (card["max_model_len"], card["precision"]) == (1024, "int8")
    assert card["system_fingerprint"] == served.model.fingerprint


def test_while_the_model_is_loaded_the_answer_is_503() -> None:
    service = Service(ServeSettings())
    app = make_app(service)

    async def ask() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/health")).status_code == 200
            for path in ("/ready", "/v1/models", "/page/settings.json"):
                told(await client.get(path), 503)
            answer = await client.post("/v1/completions", json={"prompt": "x"})
            assert "being loaded" in told(answer, 503)["message"]
            assert "retry-after" in answer.headers
            assert (await client.get("/metrics")).status_code == 200

    asyncio.run(ask())


def test_the_bundles_name_is_the_models() -> None:
    with in_thread(model_name="日本語/gpt2") as running:
        assert running.client.get("/v1/models").json()["data"][0]["id"] == "日本語/gpt2"
        assert running.client.get("/v1/models/日本語/gpt2").status_code == 200
        assert running.complete(model="日本語/gpt2", prompt="朝").status_code == 200
        assert 'model_name="日本語/gpt2"' in running.client.get("/metrics").text


def test_tokens(served: Running) -> None:
    tokenizer = served.model.tokenizer
    body = {"prompt": PROMPT, "add_special_tokens": True, "return_token_strs": True}
    found = served.client.post("/tokenize", json=body).json()
    ids = tokenizer.encode(PROMPT)
    assert (found["tokens"], found["count"], found["max_model_len"]) == (ids, len(ids), 1024)
    assert "".join(found["token_strs"]) == PROMPT
    back = served.client.post("/detokenize", json={"tokens": ids}).json()
    assert back == {"prompt": PROMPT}
    long = served.client.post("/tokenize", json={"prompt": PROMPT * 5000}).json()
    assert long["tokens"] == tokenizer.encode(PROMPT * 5000)
    assert long["token_strs"] is None


def test_a_special_token_alone_is_its_id(served: Running) -> None:
    info = served.client.get("/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"], info["vocab_size"]) == ("<s>", "</s>", 8000)
    for name in ("bos", "eos"):
        found = served.client.post("/tokenize", json={"prompt": info[f"{name}_token"]}).json()
        assert found["tokens"] == [served.model.manifest.special_ids[name]]
    inside = served.client.post("/tokenize", json={"prompt": "a</s>"}).json()["tokens"]
    assert served.model.manifest.special_ids["eos"] not in inside


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": []}, "messages"),
        ("/tokenize", {"prompt": "x", "add_special_tokens": 1}, "add_special_tokens"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/detokenize", {"tokens": [8000]}, "tokens"),
        ("/detokenize", {"tokens": [True]}, "tokens"),
    ],
)
def test_wrong_tokens(served: Running, path: str, body: dict[str, Any], param: str) -> None:
    assert told(served.client.post(path, json=body), 400)["param"] == param
    answer = served.client.post(path, json=body | {"model": "other"})
    assert answer.status_code in (400, 404)


def test_the_pages_settings(served: Running) -> None:
    shown = {entry["name"]: entry for entry in served.client.get("/page/settings.json").json()}
    assert shown["temperature"]["default"] == served.model.defaults.temperature
    assert shown["top_p"]["default"] == served.model.defaults.top_p == 0.95
    assert shown["max_tokens"]["default"] == 16
    assert shown["use_beam_search"] == {
        "name": "use_beam_search",
        "type": "boolean",
        "minimum": None,
        "maximum": None,
        "default": False,
        "group": "beams",
        "help": {"en": PARAMETERS["use_beam_search"].en, "ja": PARAMETERS["use_beam_search"].ja},
    }
    for name, entry in shown.items():
        assert entry["type"] in ("integer", "number", "boolean", "strings", "text", "json")
        assert entry["help"]["en"]
        assert entry["help"]["ja"]
        default = entry["default"]
        if default is not None and name not in ("stop", "bad_words"):
            answer = served.complete(prompt="朝", **({"max_tokens": 1} | {name: default}))
            assert answer.status_code == 200, (name, answer.text)


def test_metrics_count_what_was_done() -> None:
    with in_thread() as running:
        running.texts(prompt=PROMPT, max_tokens=5, n=3, ignore_eos=True)
        running.complete(prompt=[PROMPT, "朝"], max_tokens=60, stream=True, ignore_eos=True)
        running.complete(prompt="")
        text = running.client.get("/metrics").text
        prompt, other = (len(running.model.tokenizer.encode(part)) for part in (PROMPT, "朝"))
    values: dict[tuple[str, frozenset[str]], float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, rest = line.partition("{")
            labels, _, number = rest.rpartition("} ")
            values[name, frozenset(labels.split(","))] = float(number or name.split()[-1])

    def value(metric: str, *labels: str) -> float:
        return values[metric, frozenset(['model_name="demo"', *labels])]

    tokens = 3 * 5 + 2 * 60
    assert value("gpt2ja_generation_tokens_total") == tokens
    assert value("gpt2ja_prompt_tokens_total") == 2 * prompt + other
    assert value("gpt2ja_request_success_total", 'finished_reason="length"') == 5
    assert value("gpt2ja_num_requests_running") == 0
    assert value("gpt2ja_kv_cache_usage_perc") == 0
    assert value("gpt2ja_prefix_cache_hits_total") >= 2 * prompt
    assert value("gpt2ja_request_params_n_sum") == 3 + 1
    # Of two streamed sequences; tokens that come at once with others have no time of their own.
    assert 2 <= value("gpt2ja_inter_token_latency_seconds_count") <= 2 * 59
    assert value("gpt2ja_iteration_tokens_total_sum") >= tokens
    for stem in (
        "time_to_first_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
    ):
        assert value(f"gpt2ja_{stem}_count") == 3
        assert value(f"gpt2ja_{stem}_bucket", 'le="+Inf"') == 3
    answered = {
        status: values["http_requests_total", frozenset(labels.split(","))]
        for status in ("200", "400")
        for labels in [f'method="POST",handler="/v1/completions",status="{status}"']
    }
    assert answered == {"200": 2, "400": 1}


schema = schemathesis.openapi.from_dict(openapi("demo"))


def test_the_description_is_the_servers(served: Running) -> None:
    assert served.client.get("/openapi.json").json() == schema.raw_schema


@schema.parametrize()
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_the_description_is_kept(served: Running, case: Any) -> None:
    """Valid and invalid requests: no 5xx, and every answer is one that is described."""
    if isinstance(case.body, dict):
        # What is drawn is seldom small, and these make work without end.
        for name in ("n", "best_of", "max_tokens"):
            if isinstance(case.body.get(name), int) and case.body[name] > 16:
                case.body[name] = 16
    case.call_and_validate(
        base_url=served.url,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )
