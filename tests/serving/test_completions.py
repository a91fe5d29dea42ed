"""POST /v1/completions against the model in process."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from gpt2ja_onnx import GenerationConfig

if TYPE_CHECKING:
    from tests.serving.running import Running

PROMPT = "近年の機械学習は"
END = {"3": 100}  # a bias for the end token


def counts(usage: dict[str, Any]) -> dict[str, int]:
    """What does not differ from run to run."""
    return {name: value for name, value in usage.items() if name.endswith("_tokens")}


def test_a_text_is_that_of_the_model(served: Running) -> None:
    answer = served.complete(model="demo", prompt=PROMPT, max_tokens=20, seed=7, stop="。", n=3)
    expected = served.model.generate(
        PROMPT, max_new_tokens=20, seed=7, stop="。", num_return_sequences=3
    )
    content = answer.json()
    assert [choice["text"] for choice in content["choices"]] == [r.text for r in expected]
    assert [choice["index"] for choice in content["choices"]] == [0, 1, 2]
    assert {choice["seed"] for choice in content["choices"]} == {7}
    reasons = {"eos": "stop", "stop": "stop", "length": "length"}
    assert [c["finish_reason"] for c in content["choices"]] == [
        reasons[result.finish_reason] for result in expected
    ]
    tokens = sum(result.completion_tokens for result in expected)
    prompt_tokens = expected[0].prompt_tokens
    assert counts(content["usage"]) == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
    }
    assert content["system_fingerprint"] == served.model.fingerprint
    assert content["object"] == "text_completion"


def test_prompts_of_every_form(served: Running) -> None:
    ids = [served.model.tokenizer.encode(text) for text in (PROMPT, "京都の寺院は、")]
    texts = served.texts(prompt=[PROMPT, "京都の寺院は、"], max_tokens=6, seed=3, n=2)
    assert len(texts) == 4
    assert served.texts(prompt=ids, max_tokens=6, seed=3, n=2) == texts
    assert served.texts(prompt=ids[1], max_tokens=6, seed=3, n=2) == texts[2:]
    assert served.texts(prompt="京都の寺院は、", max_tokens=6, seed=3, n=2) == texts[2:]


def test_absent_settings_are_the_bundles_and_16_tokens(served: Running) -> None:
    expected = served.model.generate(PROMPT, seed=5, max_new_tokens=16)[0]
    assert expected.finish_reason == "length"
    assert served.texts(prompt=PROMPT, seed=5) == [expected.text]
    given = {"temperature": None, "n": None, "stop": None, "logprobs": None, "stream": None}
    assert served.texts(prompt=PROMPT, seed=5, **given) == [expected.text]


@pytest.mark.parametrize(
    ("body", "settings"),
    [
        ({"temperature": 0}, {"do_sample": False}),
        ({"temperature": 0.7, "top_k": -1}, {"do_sample": True, "temperature": 0.7, "top_k": 0}),
        ({"min_p": 0.05, "typical_p": 0.9}, {"min_p": 0.05, "typical_p": 0.9}),
        (
            {"presence_penalty": 1, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
            {"presence_penalty": 1, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
        ),
        ({"logit_bias": {"9": 5}}, {"logit_bias": {9: 5}}),
        ({"stop_token_ids": [9]}, {"eos_token_id": [3, 9]}),
        ({"ignore_eos": True, "logit_bias": END}, {"eos_token_id": [], "logit_bias": END}),
        ({"min_tokens": 9, "logit_bias": END}, {"min_new_tokens": 9, "logit_bias": END}),
        (
            {"use_beam_search": True, "best_of": 4, "length_penalty": 0.5},
            {"num_beams": 4, "do_sample": False, "length_penalty": 0.5},
        ),
        (
            {"use_beam_search": True, "n": 2},
            {"num_beams": 2, "num_return_sequences": 2, "do_sample": False},
        ),
    ],
    ids=lambda value: "-".join(value),
)  # fmt: skip
def test_parameters_are_settings(
    served: Running, body: dict[str, Any], settings: dict[str, Any]
) -> None:
    config = GenerationConfig(max_new_tokens=12, seed=4, **settings)
    expected = [result.text for result in served.model.generate(PROMPT, config)]
    assert served.texts(prompt=PROMPT, max_tokens=12, seed=4, **body) == expected


def test_bad_words_do_not_occur(served: Running) -> None:
    body = {"prompt": "日本の", "max_tokens": 60, "seed": 2, "n": 8, "return_token_ids": True}
    encode = served.model.tokenizer.encode
    spelled = {word: encode(f"。{word}")[len(encode("。")) :] for word in ("の", "京都", "本土")}

    def found(**more: Any) -> set[str]:
        ids = [choice["token_ids"] for choice in served.complete(**body | more).json()["choices"]]
        return {
            word
            for word, tokens in spelled.items()
            for text in ids
            if any(text[at : at + len(tokens)] == tokens for at in range(len(text)))
        }

    assert "の" in found()
    assert found(bad_words=list(spelled)) == set()


def test_best_of_returns_the_likeliest(served: Running) -> None:
    results = served.model.generate(
        PROMPT, max_new_tokens=8, seed=1, num_return_sequences=6, logprobs=0
    )

    def mean(result: Any) -> float:
        return float(sum(entry.logprob for entry in result.logprobs) / len(result.logprobs))

    expected = [result.text for result in sorted(results, key=mean, reverse=True)[:2]]
    answer = served.complete(prompt=PROMPT, max_tokens=8, seed=1, n=2, best_of=6).json()
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert answer["usage"]["completion_tokens"] == sum(r.completion_tokens for r in results)
    assert answer["choices"][0]["logprobs"] is None


def test_token_ids_on_request(served: Running) -> None:
    result = served.model.generate(PROMPT, max_new_tokens=5, seed=1)[0]
    body = {"prompt": PROMPT, "max_tokens": 5, "seed": 1, "return_token_ids": True}
    (choice,) = served.complete(**body).json()["choices"]
    assert choice["token_ids"] == result.token_ids
    assert choice["prompt_token_ids"] == served.model.tokenizer.encode(PROMPT)
    parts = [event["choices"][0] for event in events(served, **body)]
    assert [token for part in parts for token in part["token_ids"]] == result.token_ids
    assert parts[0]["prompt_token_ids"] == choice["prompt_token_ids"]


def events(served: Running, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream, which must end as it should."""
    with served.client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def joined(parts: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The choices of a stream, put together."""
    found: dict[int, dict[str, Any]] = {}
    for part in parts:
        for choice in part["choices"]:
            whole = found.setdefault(choice["index"], {"text": "", "logprobs": None})
            assert "finish_reason" not in whole, "nothing follows the last part"
            whole["text"] += choice["text"]
            if choice["finish_reason"] is not None:
                whole["finish_reason"] = choice["finish_reason"]
                whole["seed"] = choice.get("seed")
            if choice["logprobs"] is not None:
                whole["logprobs"] = whole["logprobs"] or {name: [] for name in choice["logprobs"]}
                for name, values in choice["logprobs"].items():
                    whole["logprobs"][name] += values
    return found


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": PROMPT, "n": 3},
        {"prompt": PROMPT, "n": 2, "logprobs": 5, "stop": ["。", "、"]},
        {"prompt": [PROMPT, "京都の寺院は、"], "n": 2, "echo": True, "logprobs": 20},
        {"prompt": "　１９９０年 🍎 の", "echo": True, "logprobs": 0, "stop": "年"},
        {"prompt": PROMPT, "echo": True, "logprobs": 2, "max_tokens": 0},
        {"prompt": PROMPT, "stop": "の", "seed": 9, "logprobs": 1},
    ],
    ids=str,
)
def test_a_stream_joined_is_the_whole(served: Running, body: dict[str, Any]) -> None:
    body = {"max_tokens": 40, "seed": 11} | body
    whole = served.complete(**body).json()
    parts = events(served, stream_options={"include_usage": True}, **body)
    last = parts.pop()
    assert last["choices"] == []
    assert counts(last["usage"]) == counts(whole["usage"])
    assert last["usage"].keys() == whole["usage"].keys()
    assert all(part["usage"] is None for part in parts)
    assert len({part["id"] for part in parts}) == 1
    together = joined(parts)
    for choice in whole["choices"]:
        part = together[choice["index"]]
        assert part["text"] == choice["text"]
        assert part["finish_reason"] == choice["finish_reason"]
        assert part["seed"] == choice.get("seed")
        assert part["logprobs"] == choice["logprobs"]
        if choice["logprobs"] is not None:
            assert "".join(choice["logprobs"]["tokens"]) == choice["text"]


@pytest.mark.parametrize("stream", [False, True])
def test_usage_says_what_it_cost(served: Running, stream: bool) -> None:
    prompts = [[20 + stream] * 70, [30 + stream] * 70]
    for cached in (0, 128):  # two blocks of each prompt are kept
        body = {"prompt": prompts, "max_tokens": 4, "n": 2, "ignore_eos": True}
        before = time.monotonic()
        if stream:
            usage = events(served, stream_options={"include_usage": True}, **body)[-1]["usage"]
        else:
            usage = served.complete(**body).json()["usage"]
        taken = time.monotonic() - before
        assert usage["prompt_tokens"] == 140
        assert usage["prompt_tokens_details"] == {"cached_tokens": cached}
        times = [usage[f"{part}_time"] for part in ("queue", "prefill", "decode")]
        assert all(0 < part < taken for part in times)


def test_usage_of_a_prompt_that_is_only_scored(served: Running) -> None:
    usage = served.complete(prompt=PROMPT, echo=True, max_tokens=0).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
    assert {usage[f"{part}_time"] for part in ("queue", "prefill", "decode")} == {0}


def test_no_usage_unless_asked_for(served: Running) -> None:
    parts = events(served, prompt=PROMPT, max_tokens=2)
    assert all("usage" not in part for part in parts)


def test_logprobs_are_the_models(served: Running) -> None:
    (result,) = served.model.generate(PROMPT, max_new_tokens=10, seed=3, logprobs=4)
    (score,) = served.model.score(PROMPT, best=4)
    (choice,) = served.complete(prompt=PROMPT, max_tokens=10, seed=3, logprobs=4, echo=True).json()[
        "choices"
    ]
    found, count = choice["logprobs"], score.tokens
    assert result.logprobs is not None
    expected = [*score.token_logprobs, *(entry.logprob for entry in result.logprobs)]
    assert found["token_logprobs"] == expected
    assert found["top_logprobs"][0] is None
    assert all(len(top) in (4, 5) for top in found["top_logprobs"][1:])
    for place, top in enumerate(found["top_logprobs"][count:]):
        best = {value for _, value in result.logprobs[place].best}
        assert set(top.values()) == best | {result.logprobs[place].logprob}
    text = choice["text"]
    assert text == PROMPT + result.text
    bounds = [*found["text_offset"], len(text)]
    assert [text[a:b] for a, b in itertools.pairwise(bounds)] == found["tokens"]


def test_the_end_token_has_an_entry(served: Running) -> None:
    (choice,) = served.complete(
        prompt=PROMPT, max_tokens=4, logprobs=1, logit_bias={"3": 100}
    ).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")
    assert choice["logprobs"]["tokens"] == [""]
    assert "</s>" in choice["logprobs"]["top_logprobs"][0]


def test_texts_longer_than_the_context_can_be_scored(served: Running) -> None:
    text = "日本の都市である。" * 300
    (score,) = served.model.score(text)
    assert score.tokens > 1024
    (choice,) = served.complete(prompt=text, max_tokens=0, echo=True, logprobs=0).json()["choices"]
    assert choice["logprobs"]["token_logprobs"] == score.token_logprobs
    assert choice["text"] == text


def test_the_context_ends_a_text(served: Running) -> None:
    ids = [9] * 1020
    (choice,) = served.complete(prompt=ids, max_tokens=50, ignore_eos=True).json()["choices"]
    assert choice["finish_reason"] == "length"
    full = [9] * 1024
    answer = served.complete(prompt=full, max_tokens=5, logprobs=1, echo=True).json()
    assert answer["usage"]["completion_tokens"] == 0
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == 1024
    parts = events(served, prompt=full, max_tokens=5, logprobs=1)
    assert [part["choices"][0]["finish_reason"] for part in parts] == ["length"]
