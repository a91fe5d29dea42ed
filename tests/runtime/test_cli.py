"""The command line: what it prints where, and how it ends."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from gpt2ja_onnx.cli import main

if TYPE_CHECKING:
    from pathlib import Path


class Result:
    """Exit code, stdout and stderr of one call."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def bundle(bundles: dict[str, Path]) -> Path:
    return bundles["int8"]


def test_jsonl_has_the_documented_fields(run: Any, bundle: Path) -> None:
    result = run("generate", "朝の", "彼は", "--model", bundle, "--format", "jsonl", "--seed", 1,
                 "--num-return-sequences", 2, "--logprobs", 1)  # fmt: skip
    assert result.code == 0
    assert result.err == ""
    keys = ["prompt_index", "sequence_index"]
    assert [[line[k] for k in keys] for line in result.lines] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    line = result.lines[2]
    assert line["prompt"] == "彼は"
    assert line["finish_reason"] in ("length", "eos")
    assert line["completion_tokens"] == len(line["token_ids"]) == len(line["logprobs"])
    assert line["seed"] == 1
    assert set(line["logprobs"][0]) == {"logprob", "best"}


def test_beams_are_searched_the_same_way_twice(run: Any, bundle: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text('朝の\n{"prompt": "朝の", "num_beams": 4, "early_stopping": "never"}\n')
    result = run("generate", "--input", prompts, "--model", bundle, "--format", "jsonl", "--greedy",
                 "--num-beams", 4, "--length-penalty", 0.5, "--early-stopping", "never",
                 "--num-return-sequences", 3)  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert [line["sequence_index"] for line in result.lines] == [0, 1, 2] * 2
    ids = [line["token_ids"] for line in result.lines]
    assert ids[:3] == ids[3:]
    assert ids[0] != ids[1] != ids[2]


def test_text_and_stream_are_prompt_and_continuation(run: Any, bundle: Path) -> None:
    options = ("--model", bundle, "--seed", 5, "--max-new-tokens", 12)
    text = run("generate", "朝の市場", *options)
    assert text.out.startswith("朝の市場")
    assert len(text.out.splitlines()) == 1
    assert run("generate", "朝の市場", "--stream", *options).out == text.out


def test_a_file_of_prompts_reports_bad_lines_and_goes_on(
    run: Any, bundle: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "朝の\n\n"
        '{"prompt": "彼は", "seed": 5, "max_new_tokens": 3}\n'
        '{"prompt": "彼は", "topp": 1}\n'
        '{"prompt": "彼は", "top_p": 7}\n'
        '{"seed": 1}\n'
        "{broken\n"
        '{"prompt": 3}\n'
        '{"prompt": ""}\n'
        "最後\n"
    )
    output = tmp_path / "out.jsonl"
    result = run("generate", "--input", prompts, "--output", output, "--format", "jsonl",
                 "--model", bundle)  # fmt: skip
    assert result.code == 1
    assert result.out == ""
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line.get("prompt") for line in lines] == ["朝の", "彼は", *[None] * 6, "最後"]
    assert lines[1]["completion_tokens"] <= 3
    errors = [line["error"] for line in lines if "error" in line]
    assert "line 4: unknown setting 'topp'" in errors[0]
    assert "line 5: top_p must be above 0 and at most 1, not 7" in errors[1]
    assert "line 6: has no 'prompt'" in errors[2]
    assert "line 7:" in errors[3]
    assert "must be a string" in errors[4]
    assert "empty" in errors[5]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["generate"], 2, "give a PROMPT"),
        (["generate", "あ", "--input", "x"], 2, "not both"),
        (["generate", "あ", "い", "--stream"], 2, "--stream shows one text"),
        (["generate", "あ", "--nonsense"], 2, "No such option"),
        (["nonsense"], 2, "No such command"),
        (["generate", "あ", "--top-p", "3"], 1, "top_p must be above 0 and at most 1, not 3.0"),
        (["generate", "あ", "--threads", "0", "--model", "{bundle}"], 1, "threads must be"),
        (["generate", "あ", "--model", "nowhere"], 1, "nowhere: no such bundle"),
        (["generate", "--input", "nowhere.txt", "--model", "{bundle}"], 1, "nowhere.txt: cannot"),
        (["generate", "あ", "--output", "no/dir/x", "--model", "{bundle}"], 1, "no/dir/x: cannot"),
        (["generate", "", "--model", "{bundle}"], 1, "the prompt is empty"),
        (["generate", "あ", "--num-beams", "33", "--model", "{bundle}"], 1, "num_beams is 33"),
        (["generate", "あ", "--early-stopping", "ever"], 2, "'ever' is not one of"),
        (
            ["generate", "あ", "--num-beams", "2", "--stream", "--model", "{bundle}"],
            1,
            "a stream needs num_beams 1, not 2",
        ),
        (["score"], 2, "give a TEXT"),
        (["inspect", "--model", "nowhere"], 1, "nowhere: no such bundle"),
        (["export", "a", "b", "c"], 2, "expected [CHECKPOINT] OUTPUT"),
        (["export", "/no/where", "out"], 1, "/no/where: no such directory"),
        (["train", "corpus", "no.txt", "--output", "out"], 1, "no.txt: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    run: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = run(*[a.format(bundle=bundle) for a in arguments])
    assert result.code == code
    assert message in result.err
    assert [*tmp_path.iterdir()] == []
    if code == 1:
        errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1


def test_a_missing_extra_is_named(run: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module in ("gpt2ja_onnx.device.choice", "gpt2ja_onnx.device.providers"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run("inspect", "--model", bundle)
    assert result.code == 1
    assert "pip install 'gpt2ja-onnx[cpu]'" in result.err
    assert "gpt2ja-onnx[gpu]" in result.err


def test_score(run: Any, bundle: Path) -> None:
    result = run("score", "朝の市場には、", "図", "--format", "jsonl", "--model", bundle)
    first, second = result.lines
    assert set(first) == {"text", "tokens", "logprob", "perplexity"}
    assert first["logprob"] < 0
    assert second == {"text": "図", "tokens": 2, "logprob": second["logprob"],
                      "perplexity": second["perplexity"]}  # fmt: skip
    text = run("score", "朝の市場には、", "--model", bundle).out
    assert text.endswith("\t朝の市場には、\n")


def test_inspect(run: Any, bundles: dict[str, Path]) -> None:
    text = run("inspect", "--model", bundles["fp32"]).out
    lines = {line[:30].strip(): line[30:] for line in text.splitlines()}
    assert lines["precision"] == "fp32, fused graph for cpu"
    assert lines["model"] == "2 layers × 64, 2 heads"
    assert lines["fast gelu"] == "2"
    assert lines["fused operators"] == "16"
    assert lines["feed forward"] == "0.265 MB"
    assert float(lines["max logit difference"]) <= 1e-4
    assert lines["runs here on cpu"] == "yes"
    assert lines["runs here on cuda"].startswith("no: the bundle is made for the CPU")
    content = json.loads(run("inspect", "--model", bundles["fp32"], "--format", "json").out)
    assert content["shape"]["layers"] == 2
    assert content["weights"]["feed_forward"] == 2 * 4 * (2 * 64 * 256 + 256 + 64)
    assert content["verification"]["greedy_agreement"] == 1
    assert content["obstacles"]["cpu"] is None
    assert "made for the CPU" in content["obstacles"]["cuda"]


def test_inspect_says_that_a_portable_bundle_is_for_other_tools(
    run: Any, bundle: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    manifest = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps(manifest | {"graph": "portable"}))
    text = run("inspect", "--model", copy).out
    assert text.count("no: a portable bundle is for other tools") == 2


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "--model", "nowhere", "--debug"])
    assert ended.value.code == 1
    assert "Traceback" in capsys.readouterr().err
