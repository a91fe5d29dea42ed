"""Programs that people call such servers with: openai, curl, lm-evaluation-harness."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import openai
import pytest

from tests.serving.running import in_thread, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.serving.running import Running

PROMPT = "近年の機械学習は"
SENTENCES = (
    (PROMPT, ["、", "猫"], 0),  # the demo model's own choice, and another one
    ("京都は日本の", ["都市である。", "都会人だった。"], 0),
    ("東京都は、日本の", ["首都である。", "料理である。"], 0),
    ("江戸時代の", ["大名", "電話"], 0),
    ("1990年、", ["に開業した。", "猫犬鳥魚。"], 0),
)


@pytest.fixture(scope="module")
def client(served: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)


def test_openai(served: Running, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    completion = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=12, seed=7, n=2, stop="。", logprobs=2,
        extra_body={"top_k": 40, "min_p": 0.01},
    )  # fmt: skip
    expected = served.model.generate(
        PROMPT, max_new_tokens=12, seed=7, num_return_sequences=2, stop="。", top_k=40, min_p=0.01
    )
    assert [choice.text for choice in completion.choices] == [result.text for result in expected]
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len(served.model.tokenizer.encode(PROMPT))
    assert completion.system_fingerprint == served.model.fingerprint
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == completion.choices[0].text


def test_openai_streams(served: Running, client: openai.OpenAI) -> None:
    (expected,) = served.model.generate(PROMPT, max_new_tokens=20, seed=7)
    stream = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=20, seed=7, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    parts = list(stream)
    assert "".join(part.choices[0].text for part in parts if part.choices) == expected.text
    assert parts[-1].usage is not None
    assert parts[-1].usage.completion_tokens == 20


def test_openai_in_asyncio(served: Running) -> None:
    expected = [
        served.model.generate(PROMPT, max_new_tokens=10, seed=seed)[0].text for seed in range(20)
    ]

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as client:

            async def one(seed: int) -> str:
                stream = await client.completions.create(
                    model="demo", prompt=PROMPT, max_tokens=10, seed=seed, stream=True
                )
                return "".join([part.choices[0].text async for part in stream])

            return list(await asyncio.gather(*map(one, range(20))))

    assert asyncio.run(run()) == expected


def test_openai_tells_errors_apart(served: Running, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="top_p must be above 0") as caught:
        client.completions.create(model="demo", prompt=PROMPT, top_p=3)
    assert caught.value.param == "top_p"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.completions.create(model="gpt-4", prompt=PROMPT)
    with pytest.raises(openai.BadRequestError, match="base model"):
        client.chat.completions.create(model="demo", messages=[])
    with pytest.raises(openai.APIError, match="not finished within"):
        list(
            client.completions.create(
                model="demo", prompt=PROMPT, max_tokens=1000, stream=True,
                extra_body={"timeout": 0.1, "ignore_eos": True},
            )
        )  # fmt: skip


def test_openai_tries_again_where_the_queue_was_full() -> None:
    with in_thread(batch_size=1, max_waiting=1) as running:
        url = httpx.URL(running.url)
        long = {"prompt": PROMPT, "max_tokens": 900, "ignore_eos": True, "top_k": 0,
                "typical_p": 0.9}  # fmt: skip
        body = json.dumps(long).encode()
        head = (
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json"
            b"\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        blocking = [socket.create_connection((url.host, url.port or 0)) for _ in range(2)]
        for count, connection in enumerate(blocking):
            connection.sendall(head + body)
            wait_for(lambda count=count: running.rows == (1, count))
        seen: list[int] = []

        def watch(response: httpx2.Response) -> None:
            seen.append(response.status_code)
            if response.status_code == 429:  # the others leave before it tries again
                for connection in blocking:
                    connection.close()

        http = httpx2.Client(event_hooks={"response": [watch]}, trust_env=False)
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="x", http_client=http) as client:
            completion = client.completions.create(model="demo", prompt=PROMPT, max_tokens=3)
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 3
        assert seen == [429, 200]


def test_openai_that_stops_reading_frees_its_rows(served: Running, client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=1000, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    served.wait_idle(2)


def test_curl(served: Running) -> None:
    (expected,) = served.model.generate(PROMPT, max_new_tokens=8, seed=7)
    body = {"model": "demo", "prompt": PROMPT, "max_tokens": 8, "seed": 7}

    def curl(**more: Any) -> str:
        done = subprocess.run(
            ["curl", "-sSN", "--fail-with-body", f"{served.url}/v1/completions",
             "-H", "Content-Type: application/json", "-d", json.dumps(body | more)],
            capture_output=True, text=True, encoding="utf-8", check=True,
        )  # fmt: skip
        return done.stdout

    assert json.loads(curl())["choices"][0]["text"] == expected.text
    lines = [line for line in curl(stream=True).splitlines() if line]
    assert lines.pop() == "data: [DONE]"
    parts = [json.loads(line.removeprefix("data: "))["choices"][0]["text"] for line in lines]
    assert "".join(parts) == expected.text


def test_curl_sends_a_large_body_with_expect(served: Running, tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_text(json.dumps({"prompt": "朝" * 3_000_000}), encoding="utf-8")
    done = subprocess.run(
        ["curl", "-sS", f"{served.url}/v1/completions", "-H", "Content-Type: application/json",
         "--data-binary", f"@{file}", "-w", "%{http_code}"],
        capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert done.stdout.endswith("413")


def test_texts_under_load_are_those_alone(served: Running) -> None:
    """Clients in threads, streamed and not, with different settings: each as in process."""
    bodies = [
        {"prompt": prompt, "max_tokens": 10 + 7 * index, "seed": index, "n": 1 + index % 3} | more
        for index, (prompt, more) in enumerate(
            (prompt, more)
            for prompt in (PROMPT, "京都の寺院は、", "朝")
            for more in ({}, {"logprobs": 3}, {"temperature": 0.5}, {"use_beam_search": True})
        )
    ]
    expected = [served.texts(**body) for body in bodies]
    found: dict[int, list[str]] = {}

    def call(index: int, body: dict[str, Any]) -> None:
        with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as client:
            answer = client.post("/v1/completions", json=body)
        found[index] = [choice["text"] for choice in answer.json()["choices"]]

    threads = [
        threading.Thread(target=call, args=(index, body)) for index, body in enumerate(bodies * 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(len(threads))] == expected * 3


def test_lm_evaluation_harness(served: Running, tmp_path: Path) -> None:
    """Its log-likelihoods are those of `score`, and so are its greedy flags."""
    data = tmp_path / "data.jsonl"
    data.write_text(
        "".join(
            json.dumps({"context": context, "choices": choices, "label": label}) + "\n"
            for context, choices, label in SENTENCES
        ),
        encoding="utf-8",
    )
    (tmp_path / "task.yaml").write_text(
        f"""\
task: small_japanese
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: choices
doc_to_target: label
target_delimiter: ""
metric_list: [{{metric: acc}}]
""",
        encoding="utf-8",
    )
    arguments = f"model=demo,base_url={served.url}/v1/completions,max_length=1024,num_concurrent=1"
    output = tmp_path / "output"
    environment = os.environ | {
        "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"),
        "OPENAI_API_KEY": "",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions",
         "--model_args", arguments, "--tasks", "small_japanese", "--include_path", str(tmp_path),
         "--output_path", str(output), "--log_samples", "--batch_size", "3"],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (samples,) = output.rglob("samples_*.jsonl")
    tokenizer, model = served.model.tokenizer, served.model
    flags = set()
    for line in samples.read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        context, choices, _ = SENTENCES[sample["doc_id"]]
        for choice, answer in zip(choices, sample["filtered_resps"], strict=True):
            ids = tokenizer.encode(context + choice)
            start = len(tokenizer.encode(context))
            (score,) = model.score([ids], best=1)
            assert score.best is not None
            logprobs = [logprob or 0.0 for logprob in score.token_logprobs[start:]]
            greedy = all(
                best is not None and best[0][1] == logprob
                for best, logprob in zip(score.best[start:], logprobs, strict=True)
            )
            assert float(answer[0]) == pytest.approx(sum(logprobs), abs=1e-9)
            assert (answer[1] in ("True", True)) is greedy
            flags.add(greedy)
    assert flags == {True, False}
