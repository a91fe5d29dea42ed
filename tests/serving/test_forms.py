"""Text of a given form over HTTP, by OpenAI's, vLLM's and the runtime's own parameters."""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import openai
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt2ja_onnx.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from tests.serving.running import Running

PROMPT = "日本の首都は、"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "名前": {"enum": ["東京", "京都"]},
        "年": {"type": "integer", "minimum": 1, "maximum": 2026},
    },
    "required": ["名前", "年"],
    "additionalProperties": False,
}
RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}


def test_openai_response_format(served: Running) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)
    answer = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=40, seed=1, n=2,
        extra_body={"response_format": RESPONSE_FORMAT},
    )  # fmt: skip
    expected = served.model.generate(
        PROMPT, max_new_tokens=40, seed=1, num_return_sequences=2, json_schema=SCHEMA
    )
    assert [choice.text for choice in answer.choices] == [result.text for result in expected]
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        jsonschema_rs.validator_for(SCHEMA).validate(json.loads(choice.text))
    parts = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=40, seed=1, stream=True,
        extra_body={"response_format": RESPONSE_FORMAT},
    )  # fmt: skip
    assert "".join(part.choices[0].text for part in parts) == expected[0].text
    assert served.texts(prompt=PROMPT, max_tokens=8, seed=1, response_format={"type": "text"}) == (
        served.texts(prompt=PROMPT, max_tokens=8, seed=1)
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"regex": "[0-9]{4}年"}, {"regex": "[0-9]{4}年"}),
        ({"choice": ["東京", "京都"]}, {"choices": ["東京", "京都"]}),
        ({"json": SCHEMA, "regex": None}, {"json_schema": SCHEMA}),
        ({"grammar": 'start: "東京" | "京都"'}, {"grammar": 'start: "東京" | "京都"'}),
        ({"json_object": True}, {"json_schema": {"type": "object"}}),
    ],
)
@pytest.mark.parametrize("beams", [False, True])
def test_vllm_structured_outputs(
    served: Running, theirs: dict[str, Any], ours: dict[str, Any], beams: bool
) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 24, "seed": 1}
    if beams:
        asked |= {"use_beam_search": True, "best_of": 2}
    texts = served.texts(**asked, structured_outputs=theirs)
    assert texts == served.texts(**asked, **ours)
    kept: dict[str, Any] = {"num_beams": 2, "do_sample": False} if beams else {}
    results = served.model.generate(PROMPT, max_new_tokens=24, seed=1, **ours, **kept)
    assert texts == [results[0].text]


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({"regex": "("}, "regex", "unclosed group"),
        ({"regex": "龘"}, "regex", "cannot spell"),
        ({"regex": 3}, "regex", "must be a string"),
        ({"choices": []}, "choices", None),
        ({"json_schema": "{"}, "json_schema", "is no JSON"),
        ({"json_schema": {"type": "text"}}, "json_schema", "Invalid type"),
        ({"grammar": "start: b"}, "grammar", "unknown name"),
        ({"regex": "a", "grammar": 'start: "a"'}, "grammar", "exclude each other"),
        ({"regex": "a", "stop": "。"}, "stop", "exclude each other"),
        ({"response_format": "json"}, "response_format", "must be an object"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_object or json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "schema must be"),
        (
            {"response_format": RESPONSE_FORMAT, "json_schema": SCHEMA},
            "response_format",
            "exclude each other",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"structural_tag": "a"}}, "structured_outputs", "unknown field"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs", "regex must be"),
        ({"structured_outputs": {"json_object": 1}}, "structured_outputs", "true or false"),
    ],
)
def test_what_is_wrong_is_named(
    served: Running, asked: dict[str, Any], param: str, said: str | None
) -> None:
    answer = served.complete(prompt=PROMPT, max_tokens=4, **asked)
    if said is None:  # nothing is asked for
        assert answer.status_code == 200
        return
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    assert "\n" not in error["message"]


def test_a_large_form_keeps_nobody_waiting(served: Running) -> None:
    """Forms are compiled in a thread: the event loop answers meanwhile."""
    names = [f"第{number}番地" for number in range(10_000)]
    found: list[str] = []

    def ask() -> None:
        found.extend(served.texts(prompt=PROMPT, max_tokens=12, seed=1, choices=names))

    thread = threading.Thread(target=ask)
    thread.start()
    while thread.is_alive():
        assert len(served.texts(prompt=PROMPT, max_tokens=2, seed=1)) == 1
    assert found[0] in names


def test_the_page_asks_for_forms(served: Running) -> None:
    shown = {item["name"]: item for item in served.client.get("/page/settings.json").json()}
    assert {name: shown[name]["type"] for name in ("regex", "choices", "json_schema")} == {
        "regex": "text", "choices": "strings", "json_schema": "json",
    }  # fmt: skip
    assert {shown[name]["group"] for name in ("regex", "choices", "grammar")} == {"form"}


@pytest.mark.parametrize("parquet", [False, True])
def test_rows_of_a_batch(tmp_path: Path, parquet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": PROMPT, "regex": "[0-9]{4}年"},
        {"prompt": PROMPT, "choices": ["東京", "京都"]},
        {"prompt": PROMPT, "json_schema": json.dumps(SCHEMA) if parquet else SCHEMA},
        {"prompt": PROMPT, "grammar": "start: b"},
    ]
    if parquet:
        pq.write_table(pa.Table.from_pylist([dict.fromkeys(
            ("prompt", "regex", "choices", "json_schema", "grammar")) | row for row in rows
        ]), tmp_path / "in.parquet")  # fmt: skip
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "in.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main([
            "batch", str(tmp_path / f"in.{'parquet' if parquet else 'jsonl'}"), "--quiet",
            "--output", str(tmp_path / "out"), "--seed", "1", "--max-new-tokens", "40",
        ])  # fmt: skip
    assert ended.value.code == 1
    assert "Traceback" not in capsys.readouterr().err
    if parquet:
        (part,) = (tmp_path / "out").glob("part-*.parquet")
        records = pq.read_table(part).to_pylist()
    else:
        (part,) = (tmp_path / "out").glob("part-*.jsonl")
        records = list(map(json.loads, part.read_text(encoding="utf-8").splitlines()))
    year, name, city, wrong = records
    assert re.fullmatch("[0-9]{4}年", year["text"])
    assert name["text"] in ("東京", "京都")
    jsonschema_rs.validator_for(SCHEMA).validate(json.loads(city["text"]))
    assert "grammar cannot be used" in wrong["error"]
