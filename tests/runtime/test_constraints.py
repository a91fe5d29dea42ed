"""Text of a given form: what ends has the form, and nothing else changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2ja_onnx import GenerationConfig, GenerationError, GPT2Ja, SettingError
from gpt2ja_onnx.cli import main
from gpt2ja_onnx.constraints.compiler import Compiler
from gpt2ja_onnx.constraints.constraint import Constraint
from gpt2ja_onnx.constraints.masks import Masks
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.engine.group import SequenceGroup
from tests.fakes import SHAPE, FakeSession, Letters, run, token_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpt2ja_onnx import GenerationResult

PROMPT = "日本の首都は、"
ENDED = ("stop", "eos")
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "名前": {"type": "string", "minLength": 1, "maxLength": 6},
        "年": {"type": "integer", "minimum": 1, "maximum": 2026},
        "所": {"enum": ["東京", "京都", None]},
        "他": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["名前", "年", "所", "他"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model() -> Iterator[GPT2Ja]:
    with GPT2Ja.load(batch_size=8) as loaded:
        yield loaded


def ids(results: list[GenerationResult]) -> list[list[int]]:
    return [result.token_ids for result in results]


# --- what ends has the form ---

ATOMS = st.sampled_from(
    ["東", "京都", "[ぁ-ん]", "[0-9]", "[^。、]", r"\d", "a|bc", " ", r"\.", "."]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map("|".join),
        st.tuples(inner, st.sampled_from(["?", "*", "+", "{2}", "{1,3}"])).map(
            lambda parts: f"(?:{parts[0]}){parts[1]}"
        ),
    ).map(lambda pattern: f"(?:{pattern})"),
    max_leaves=6,
)


@given(PATTERNS, st.integers(0, 2**32), st.sampled_from([1, 3]))
@settings(max_examples=40, deadline=None)
def test_every_finished_text_matches(model: GPT2Ja, pattern: str, seed: int, beams: int) -> None:
    for result in model.generate(
        PROMPT,
        regex=pattern,
        seed=seed,
        num_beams=beams,
        do_sample=beams == 1,
        num_return_sequences=1 if beams > 1 else 3,
        max_new_tokens=8,
    ):
        if result.finish_reason in ENDED:
            assert re.fullmatch(pattern, result.text)
        else:
            assert result.finish_reason == "length"
            assert len(result.token_ids) == 8
        assert model.tokenizer.piece_text(result.token_ids) == result.text


@pytest.mark.parametrize("sampled", [{}, {"top_k": 0, "top_p": 1.0}, {"do_sample": False}])
def test_json_is_of_its_schema(model: GPT2Ja, sampled: dict[str, Any]) -> None:
    validator = jsonschema_rs.validator_for(PERSON)
    results = model.generate(
        [PROMPT, "人名："], json_schema=PERSON, seed=1, max_new_tokens=60, **sampled,
        num_return_sequences=1 if sampled.get("do_sample") is False else 4,
    )  # fmt: skip
    assert {result.finish_reason for result in results} == {"stop"}
    for result in results:
        validator.validate(json.loads(result.text))


def test_a_schema_is_normalised_as_text_is(model: GPT2Ja) -> None:
    schema = {
        "type": "object",
        "properties": {"Ｘ": {"const": "（ａ）"}},
        "required": ["Ｘ"],
        "additionalProperties": False,
    }
    (result,) = model.generate(PROMPT, json_schema=json.dumps(schema), seed=1)
    assert result.text == '{"X":"(a)"}'


def test_choices(model: GPT2Ja) -> None:
    names = ["東京", "京都", "ＡＢＣ（１）"]
    results = model.generate(PROMPT, choices=names, num_return_sequences=20, seed=3)
    assert {result.text for result in results} <= {"東京", "京都", "ABC(1)"}
    assert len({result.text for result in results}) > 1
    (best,) = model.generate(PROMPT, choices=names, do_sample=False)
    assert best.finish_reason == "stop"
    searched = model.generate(
        PROMPT, choices=names, do_sample=False, num_beams=3, num_return_sequences=3
    )
    assert {result.text for result in searched} <= {"東京", "京都", "ABC(1)"}
    assert len({tuple(tokens) for tokens in ids(searched)}) == 3


def test_a_grammar(model: GPT2Ja) -> None:
    grammar = 'start: "昭和" year "年" ("(" start ")")?\nyear: /[1-9][0-9]?/'
    for result in model.generate(
        PROMPT, grammar=grammar, seed=1, num_return_sequences=6, max_new_tokens=60
    ):
        assert result.finish_reason in ENDED
        assert re.fullmatch(r"(昭和[1-9][0-9]?年\(?)+\)*", result.text)
        assert result.text.count("(") == result.text.count(")")


def test_thousands_of_choices_are_compiled_soon(model: GPT2Ja) -> None:
    names = [f"第{number}回" for number in range(10_000)]
    started = time.monotonic()
    (result,) = model.generate(PROMPT, choices=names, seed=1)
    assert time.monotonic() - started < 5
    assert result.text in names


# --- where it ends ---


def test_a_form_that_forbids_nothing_changes_nothing(model: GPT2Ja) -> None:
    for chosen in ({}, {"top_k": 5}, {"do_sample": False}, {"num_beams": 3, "do_sample": False}):
        plain = model.generate(PROMPT, seed=5, max_new_tokens=16, **chosen)
        assert ids(model.generate(PROMPT, seed=5, max_new_tokens=16, regex=".*", **chosen)) == (
            ids(plain)
        )


def test_an_end_token_comes_only_where_the_form_is_complete(model: GPT2Ja) -> None:
    eos = model.manifest.special_ids["eos"]
    wanted: dict[str, Any] = {"logit_bias": {eos: 100}, "do_sample": False}
    (result,) = model.generate(PROMPT, regex="東京(都(内)?)?", **wanted)
    assert (result.text, result.finish_reason) == ("東京", "eos")
    (longer,) = model.generate(PROMPT, regex="東京?都?[ぁ-ん]*", **wanted, min_new_tokens=5)
    assert len(longer.token_ids) == 6
    # Where nothing may follow, the text ends before min_new_tokens.
    (short,) = model.generate(PROMPT, regex="東京", **wanted, min_new_tokens=15)
    assert (short.text, short.finish_reason) == ("東京", "stop")


def test_an_end_token_that_spells_text_is_no_text(model: GPT2Ja) -> None:
    tokenizer = model.tokenizer
    digits = [
        token
        for token in range(tokenizer.vocab_size)
        if isinstance(text := tokenizer.token_text(token), str) and re.fullmatch("[0-9]+", text)
    ]
    assert digits
    for seed in range(10):
        (result,) = model.generate(
            PROMPT,
            regex="[0-9]{6}",
            eos_token_id=digits[:1],
            do_sample=True,
            seed=seed,
            max_new_tokens=20,
            top_k=0,
        )
        assert digits[0] not in result.token_ids[:-1]
        assert re.fullmatch("[0-9]{6}", result.text), result.text


def test_a_text_that_is_cut_says_so(model: GPT2Ja) -> None:
    (result,) = model.generate(PROMPT, regex="[ぁ-ん]{50}", max_new_tokens=5, seed=1)
    assert result.finish_reason == "length"
    assert re.fullmatch("[ぁ-ん]+", result.text)
    (whole,) = model.generate(PROMPT, regex="[ぁ-ん]{50}", max_new_tokens=50, seed=1)
    assert whole.text.startswith(result.text)
    assert len(whole.text) == 50


def test_settings_that_leave_nothing_fail_their_request_alone(model: GPT2Ja) -> None:
    tokens = [
        token
        for token in range(model.tokenizer.vocab_size)
        if "都" in str(model.tokenizer.token_text(token))
    ]
    other = model.submit("京都の寺院は、", seed=1, max_new_tokens=20)
    with pytest.raises(GenerationError, match="no token that could follow"):
        model.generate(PROMPT, regex="東京都", suppress_tokens=tokens)
    assert (
        other.result()[0].token_ids
        == ids(model.generate("京都の寺院は、", seed=1, max_new_tokens=20))[0]
    )


def test_a_user_s_processor_cannot_leave_the_form(model: GPT2Ja) -> None:
    def only_particles(history: Any, scores: Any) -> Any:
        return np.where(np.arange(len(scores)) == 10, 1e9, scores)

    (result,) = model.generate(PROMPT, regex="[0-9]{4}", seed=1, logits_processors=[only_particles])
    assert re.fullmatch("[0-9]{4}", result.text)


# --- promises ---


def test_neighbours_seeds_and_streams(model: GPT2Ja) -> None:
    forms: list[dict[str, Any]] = [
        {"regex": "[ぁ-ん]{1,20}。"},
        {"json_schema": PERSON, "max_new_tokens": 60},
        {"choices": ["東京", "京都", "大阪"], "top_k": 0},
        {"regex": "[^。]+。", "num_beams": 3, "do_sample": False},
        {"max_new_tokens": 30},
    ]
    alone = [ids(model.generate(PROMPT, seed=n, **form)) for n, form in enumerate(forms)]
    together = [model.submit(PROMPT, seed=n, **form) for n, form in enumerate(forms)] * 2
    assert [ids(request.result()) for request in together] == alone * 2
    for seed, form in enumerate(forms):
        if "num_beams" not in form:
            (whole,) = model.generate(PROMPT, seed=seed, **form)
            chunks = list(model.stream(PROMPT, seed=seed, **form))
            assert "".join(chunk.text for chunk in chunks) == whole.text
            assert chunks[-1].finish_reason == whole.finish_reason
            assert [chunk.token_id for chunk in chunks] == whole.token_ids


def test_kernels_and_ids(model: GPT2Ja) -> None:
    with GPT2Ja.load(kernels="off", batch_size=4) as standard:
        for result in standard.generate(PROMPT, regex="[0-9]{4}年", seed=1, num_return_sequences=4):
            assert re.fullmatch("[0-9]{4}年", result.text)
    prompt = np.array([model.tokenizer.encode(PROMPT)])
    output = model.generate_ids(prompt, regex="[0-9]{4}年", seed=1)
    text = model.tokenizer.piece_text(output[0, prompt.shape[1] :].tolist())
    assert re.fullmatch("[0-9]{4}年", text)


def test_asyncio_goes_on_while_a_form_is_compiled(model: GPT2Ja) -> None:
    async def both() -> tuple[list[GenerationResult], int]:
        turns = 0
        task = asyncio.create_task(
            model.agenerate(PROMPT, choices=[f"第{n}章" for n in range(15_000)], seed=1)
        )
        while not task.done():
            turns += 1
            await asyncio.sleep(0.002)
        return await task, turns

    results, turns = asyncio.run(both())
    assert re.fullmatch("第[0-9]+章", results[0].text)
    assert turns > 3


@pytest.mark.parametrize(
    ("quick", "spare", "beside"), [(0, False, 5), (math.inf, False, 1), (math.inf, True, 5)]
)
def test_masks_are_found_beside_the_graph(
    quick: float, spare: bool, beside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but those of the first step, which every text of a form shares, and quick ones."""
    threads: list[str] = []
    found = Constraint.mask_next

    def noted(self: Constraint) -> None:
        threads.append(threading.current_thread().name)
        found(self)

    monkeypatch.setattr(Constraint, "mask_next", noted)
    monkeypatch.setattr("gpt2ja_onnx.constraints.constraint._QUICK_SECONDS", quick)
    before = set(threading.enumerate())
    with GPT2Ja.load(batch_size=4) as model:
        model._worker._engine._masks = Masks(spare=spare)
        model.generate([PROMPT] * 3, regex="[ぁ-ん]{30}", max_new_tokens=6)
    assert len(threads) == 3 * 5
    assert [name.rpartition("_")[0] for name in threads].count("gpt2ja-onnx-masks") == 3 * beside
    assert set(threading.enumerate()) <= before


# --- what cannot be ---

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"regex": "("}, "regex cannot be used: unclosed group"),
    ({"regex": "(?=a)b"}, "look-around"),
    ({"regex": "龘[ぁ-ん]"}, "regex needs '龘'; the vocabulary cannot spell it"),
    ({"regex": "（東京）"}, r"regex needs '（', which the tokenizer writes as '\('"),
    ({"regex": r"1\$"}, r"regex needs '\$'"),
    ({"regex": "a{0}"}, "regex cannot be used: the vocabulary has no text"),
    ({"regex": "[龘]"}, "regex cannot be used: the vocabulary has no text"),
    ({"choices": ["東京", "龘"]}, "choices needs '龘'"),
    ({"choices": [""]}, "choices must be a list of texts"),
    ({"choices": "東京"}, "choices must be a list of texts"),
    ({"json_schema": "{"}, "json_schema is no JSON"),
    ({"json_schema": "[]"}, "json_schema must be a JSON object"),
    ({"json_schema": {"type": "text"}}, "json_schema cannot be used: .*Invalid type"),
    ({"json_schema": {"not": {}}}, "json_schema cannot be used"),
    ({"json_schema": {"const": "$"}}, r"json_schema needs '\$'"),
    ({"json_schema": {"multipleOf": 99_999_989}}, "json_schema may have multipleOf"),
    ({"json_schema": {"x": {1}}}, "json_schema is no JSON"),
    ({"grammar": "start: b"}, 'grammar cannot be used: unknown name: "b"'),
    ({"grammar": 'start: "龘"'}, "grammar needs '龘'"),
    ({"grammar": '%llguidance {"no_forcing": false}\nstart: "a"'}, "grammar must not have"),
    ({"grammar": "a" * 200_000}, "grammar must have at most 100000 characters"),
    ({"regex": "a", "choices": ["a"]}, "choices and regex exclude each other"),
    ({"regex": "a", "stop": "。"}, "stop and regex exclude each other"),
    ({"regex": "a", "forced_eos_token_id": 3}, "forced_eos_token_id and regex exclude"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_a_form_that_cannot_be_is_told_before_anything_runs(
    model: GPT2Ja, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message) as told:
        model.submit(PROMPT, **wrong)
    assert "\n" not in str(told.value)
    assert model.statistics().waiting == 0


@pytest.mark.parametrize(
    "hostile",
    [
        {"regex": "(?:(?:(?:[ぁ-ん]{1,200}、){1,200}。){1,200}x){1,200}"},
        {"regex": "(" * 3000 + "a" + ")*" * 3000},
        {"regex": "(.*a.{300})+(.*b.{300})+"},
        {"grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000},
        {"grammar": "start: a\n" + "\n".join(f"a{n}: a{n + 1}?" for n in range(5000))},
        {
            "grammar": "start: a0\n"
            + "".join(f"a{n}: a{n + 1}\n" for n in range(7000))
            + 'a7000: "a"'
        },
        {"json_schema": {"const": json.loads("[" * 900 + "]" * 900)}},
        {
            "json_schema": {
                "$defs": {f"{n}": {"$ref": f"#/$defs/{n + 1}"} for n in range(3000)}
                | {"3000": {"type": "null"}},
                "$ref": "#/$defs/0",
            }
        },
        {"json_schema": '{"anyOf":[' * 500 + "{}" + "]}" * 500},
        {"json_schema": '{"items":' * 20_000 + "{}" + "}" * 20_000},
        {"json_schema": {"$ref": "#"}},
    ],
)
def test_a_hostile_form_is_bounded(model: GPT2Ja, hostile: dict[str, Any]) -> None:
    other = model.submit("京都の寺院は、", seed=1, max_new_tokens=10)
    started = time.monotonic()
    with contextlib.suppress(SettingError, GenerationError):
        model.generate(PROMPT, **hostile, seed=1)
    assert time.monotonic() - started < 5
    assert other.result()[0].completion_tokens == 10


def test_without_llguidance(model: GPT2Ja, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    compiler = Compiler(model.tokenizer)
    assert compiler.compile(GenerationConfig()) is None
    with pytest.raises(SettingError, match=r"regex needs the package llguidance.*\[constrain\]"):
        compiler.compile(GenerationConfig(regex="a"))


class Syllables(Letters):
    """Tokens that are letters, and one of two letters that no single token ends."""

    vocab_size = SHAPE.vocab_size

    def token_text(self, token: int) -> str | bytes:
        return "zé" if token == 11 else super().token_text(token)

    def normalize(self, text: str) -> str:
        return text


def test_a_dead_end_fails_its_request_alone() -> None:
    """In `a(bé|c)` nothing can follow a b, although a token has an é."""

    def group(pattern: str, bias: dict[int, float]) -> SequenceGroup:
        config = GenerationConfig(regex=pattern, max_new_tokens=8, logit_bias=bias)
        return SequenceGroup(
            np.array([1, 2]), config, eos=(), context=SHAPE.context, tokenizer=Syllables(),
            grammar=Compiler(Syllables()).compile(config),
        )  # fmt: skip

    engine = Engine(FakeSession(), max_rows=4)
    dead, alive = group("a(bé|c)", {1: 100}), group("a(bé|c)", {2: 100})
    run(engine, [dead, alive])
    assert dead.error is not None
    assert "no token of the vocabulary can continue the text" in str(dead.error)
    assert token_ids(alive) == [[0, 2]]


# --- the command line ---


def test_the_command_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["generate", "--model", "demo", "--quiet", *arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    code, out, _ = call(PROMPT, "--choices", "東京", "--choices", "京都", "--format", "jsonl")
    assert code == 0
    assert json.loads(out)["text"] in ("東京", "京都")
    lines = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": PROMPT, "regex": "[0-9]{4}年"},
        {"prompt": PROMPT, "json_schema": PERSON, "max_new_tokens": 60},
        {"prompt": PROMPT, "regex": "("},
    ]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = call("--input", str(lines), "--format", "jsonl", "--seed", "1")
    assert code == 1
    year, person, error = map(json.loads, out.splitlines())
    assert re.fullmatch("[0-9]{4}年", year["text"])
    jsonschema_rs.validator_for(PERSON).validate(json.loads(person["text"]))
    assert error["error"].startswith("regex cannot be used: unclosed group")
    assert error["line"] == 3
    code, _, err = call(PROMPT, "--json-schema", '{"type": "text"}')
    assert code == 1
    assert "json_schema cannot be used" in err
    assert "Traceback" not in err
