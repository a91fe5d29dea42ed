"""The command line: what it prints where, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
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
    assert set(line["logprobs"][0]) == {"logprob", "best", "best_tokens"}
    assert len(line["tokens"]) == len(line["token_ids"])


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
        (["generate", "あ", "--greedy", "--top-p", "0.9"], 2, "--top-p does nothing with --greedy"),
        (["generate", "あ", "--length-penalty", "2"], 2, "does nothing without --num-beams"),
        (["generate", "あ", "--greedy", "--num-return-sequences", "3"], 2, "gives the same text"),
        (["generate", "あ", "--logprobs", "2"], 2, "--logprobs needs --format jsonl"),
        (["generate", "--input", "x", "--encoding", "utf-9"], 1, "no encoding 'utf-9'"),
        (["generate", "あ", "--logit-bias", "7"], 2, "is not a bias such as"),
        (["generate", "あ", "--suppress-tokens", "x"], 2, "is not a list of token ids"),
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
    for module in ("gpt2ja_onnx.device.choice", "gpt2ja_onnx.device.providers"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run("inspect", "--model", bundle)
    assert result.code == 1
    assert "pip install -c constraints.txt 'gpt2ja-onnx[cpu]'" in result.err
    assert "gpt2ja-onnx[gpu]" in result.err


def test_score(run: Any, bundle: Path) -> None:
    result = run("score", "朝の市場には、", "図", "--format", "jsonl", "--model", bundle)
    first, second = result.lines
    assert first["logprob"] < 0
    assert first["token_logprobs"][0] is None
    assert sum(first["token_logprobs"][1:]) == pytest.approx(first["logprob"])
    assert len(first["token_ids"]) == len(first["token_texts"]) == first["tokens"]
    assert (second["text"], second["tokens"]) == ("図", 2)


def test_columns_of_scores_survive_line_breaks(run: Any, bundle: Path) -> None:
    header, *rows = run("score", "朝の\n市場\tには、", "図", "--model", bundle).out.splitlines()
    assert header.split("\t") == ["perplexity", "logprob", "tokens", "text"]
    assert [row.split("\t")[3] for row in rows] == ["朝の\\n市場\\tには、", "図"]


def test_choose(run: Any, bundle: Path) -> None:
    arguments = (
        "choose",
        "朝の市場には、",
        "--option",
        "魚が並ぶ",
        "--option",
        "本\tと",
        "--model",
        bundle,
    )
    header, *rows = run(*arguments).out.splitlines()
    assert header.split("\t") == ["score", "logprob", "tokens", "option", "prompt"]
    columns = [row.split("\t") for row in rows]
    assert float(columns[0][0]) >= float(columns[1][0])
    assert {row[3] for row in columns} == {"魚が並ぶ", "本\\tと"}
    (line,) = run(*arguments, "--format", "jsonl", "--unconditional", "夜の").lines
    assert [option["option"] for option in line["options"]] == ["魚が並ぶ", "本\tと"]
    for option in line["options"]:
        assert option["score"] == option["logprob"] - option["unconditional_logprob"]
        assert option["tokens"] == len(option["token_logprobs"])
    scores = [option["score"] for option in line["options"]]
    assert line["best"] == scores.index(max(scores))


def test_choose_goes_on_behind_a_bad_line(run: Any, bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    good = {"prompt": "朝の", "options": ["市場", "本"], "id": 7, "metadata": {"a": 1}}
    bad = [
        ("[1]", "must be an object"),
        ("{", "is not JSON"),
        ('{"prompt": "朝の", "options": "市場"}', "'options' must be a list of strings"),
        ('{"options": ["市場"]}', "'prompt' must be a string"),
        ('{"prompt": "朝の", "options": ["市場", ""]}', "option 1: has no token"),
        ('{"prompt": "朝の", "options": ["市場"], "seed": 1}', "unknown field 'seed'"),
    ]
    texts = [*(text for text, _ in bad), json.dumps(good)]
    source.write_text("\n".join(texts), encoding="utf-8")
    result = run("choose", "--input", source, "--format", "jsonl", "--model", bundle)
    assert result.code == 1
    *errors, last = result.lines
    assert [line["line"] for line in result.lines] == [1, 2, 3, 4, 5, 6, 7]
    for line, (_, said) in zip(errors, bad, strict=True):
        assert said in line["error"]
    assert (last["id"], last["metadata"], len(last["options"])) == (7, {"a": 1}, 2)
    result = run("choose", "--input", source, "--model", bundle)
    assert result.code == 1
    assert len(result.out.splitlines()) == 3
    assert result.err.count("error: line ") == 6


@pytest.mark.parametrize(
    "arguments",
    [
        ["朝の"],
        ["--option", "市場"],
        ["朝の", "--option", "市場", "--input", "-"],
        ["--input", "-", "--option", "市場"],
        ["朝の", "--option", "市場", "--normalize", "unconditional"],
        ["朝の", "--option", "市場", "--normalize", "tokens", "--unconditional", "夜の"],
    ],
    ids=" ".join,
)
def test_choose_used_wrongly(run: Any, bundle: Path, arguments: list[str]) -> None:
    result = run("choose", *arguments, "--model", bundle)
    assert (result.code, result.out) == (2, "")


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


# --- files ---


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("朝の\n彼は\n", encoding="utf-8")
    return path


def test_an_output_is_not_lost(run: Any, bundle: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.txt"
    output.write_text("precious")
    refused = run("generate", "--input", prompts, "--output", output, "--model", bundle)
    assert (refused.code, output.read_text()) == (1, "precious")
    assert "exists already; use --force" in refused.err
    typo = run("generate", "--input", "typo", "--output", output, "--force", "--model", bundle)
    assert (typo.code, output.read_text()) == (1, "precious")
    for command in ("generate", "score"):
        same = run(command, "--input", prompts, "--output", prompts, "--force", "--model", bundle)
        assert same.code == 1
        assert "is the input as well" in same.err
    assert prompts.read_text(encoding="utf-8") == "朝の\n彼は\n"
    done = run("generate", "--input", prompts, "--output", output, "--force", "--model", bundle)
    assert done.code == 0
    assert output.read_text(encoding="utf-8").startswith("朝の")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.txt", "results.txt"]


def test_what_was_written_before_an_error_stays_beside(
    run: Any, bundle: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes("朝の\n".encode() + b"\xff\xfe\n")
    output = tmp_path / "out.jsonl"
    failed = run("generate", "--input", prompts, "--output", output, "--model", bundle)
    assert failed.code == 1
    assert "prompts.txt, line 2: is not text in utf-8" in failed.err
    assert not output.exists()
    (line,) = (tmp_path / "out.jsonl.partial").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["prompt"] == "朝の"


def test_links_and_pipes_are_written_to_and_not_replaced(
    run: Any, bundle: Path, tmp_path: Path
) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("")
    link.symlink_to(target)
    assert run("score", "朝の", "--output", link, "--force", "--model", bundle).code == 0
    assert link.is_symlink()
    assert "朝の" in target.read_text(encoding="utf-8")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    assert run("score", "朝の", "--output", pipe, "--model", bundle).code == 0
    reader.join(5)
    assert "朝の" in read[0]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp", "utf-16", "utf-8-sig"])
def test_other_encodings_are_named_and_read(
    run: Any, bundle: Path, tmp_path: Path, encoding: str
) -> None:
    prompts = tmp_path / "prompts.txt"
    line = '{"prompt": "朝の市場", "max_new_tokens": 2, "seed": 1}\n'
    prompts.write_text(line, encoding=encoding)
    arguments = ("generate", "--input", prompts, "--format", "jsonl", "--model", bundle)
    plain = run(*arguments)
    if encoding == "utf-8-sig":
        assert plain.lines[0]["completion_tokens"] == 2
    else:
        assert plain.code == 1
        assert f"{prompts}, line 1: is not text in utf-8" in plain.err
        named = {"utf-16": "utf_16"}.get(encoding, encoding)
        assert f"--encoding {named}" in plain.err
    told = run(*arguments, "--encoding", encoding)
    assert told.lines[0]["prompt"] == "朝の市場"


def test_ids_metadata_and_lines_come_back(run: Any, bundle: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        '{"prompt": "朝の", "id": 7, "metadata": {"a": [1]}, "num_return_sequences": 2}\n\n'
        '{"prompt": "朝の", "topp": 1, "id": "x"}\n' + "[" * 50_000 + "\n"
        '{"prompt": "朝の", "max_new_tokens": ' + "9" * 5000 + "}\n"
    )
    result = run("generate", "--input", prompts, "--format", "jsonl", "--model", bundle)
    handed = [(line["prompt_index"], line["line"], line.get("id")) for line in result.lines]
    assert handed[:3] == [(0, 1, 7), (0, 1, 7), (1, 3, "x")]
    assert result.lines[0]["metadata"] == {"a": [1]}
    assert all("error" in line for line in result.lines[-1:])
    strict = run("generate", "--input", prompts, "--format", "jsonl", "--strict", "--model", bundle)
    assert (strict.code, len(strict.lines)) == (1, 3)


# --- pipes and terminals ---


def start(*arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "gpt2ja_onnx.cli", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["generate", "score"])
def test_each_line_of_a_pipe_is_answered_before_the_next_one_comes(
    bundle: Path, command: str
) -> None:
    process = start(command, "--input", "-", "--format", "jsonl", "--model", bundle)
    assert process.stdin is not None
    assert process.stdout is not None
    for text in ("朝の", "彼は"):
        process.stdin.write(f"{text}\n".encode())
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert answer.get("prompt", answer.get("text")) == text
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_reader_that_leaves_is_no_failure(bundle: Path) -> None:
    process = start("generate", *["朝の"] * 300, "--model", bundle)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(20) == 0
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()


def test_a_locale_without_japanese_still_writes_utf_8(bundle: Path) -> None:
    process = start(
        "score", "朝の", "--model", bundle, LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")
    assert out.decode().endswith("\t朝の\n")


def test_no_bar_and_no_notice_among_results(bundle: Path) -> None:
    """Results and stderr share a terminal; nothing but results is printed there."""
    script = shutil.which("script")
    if script is None:
        pytest.fail("script (Debian: bsdutils) is missing")
    command = f"{sys.executable} -m gpt2ja_onnx.cli score 朝の 彼は --model {bundle}"
    done = subprocess.run(
        [script, "-qec", command, "/dev/null"], capture_output=True, check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert [line.count(b"\t") for line in done.stdout.splitlines()] == [3, 3, 3]


def test_lines_before_an_unreadable_one_are_scored(run: Any, bundle: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_bytes("朝の市場\n".encode() + "京都の寺院\n".encode("euc_jp"))
    result = run("score", "--input", texts, "--model", bundle)
    assert result.code == 1
    assert [line.split("\t")[3] for line in result.out.splitlines()] == ["text", "朝の市場"]
    assert "line 2: is not text in utf-8; it may be euc_jp" in result.err


def test_strict_leaves_the_old_output(run: Any, bundle: Path, tmp_path: Path) -> None:
    prompts, output = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    prompts.write_text('朝の\n{"prompt": ""}\n彼は\n', encoding="utf-8")
    output.write_text("precious")
    result = run("generate", "--input", prompts, "--output", output, "--force", "--strict",
                 "--model", bundle)  # fmt: skip
    assert (result.code, output.read_text()) == (1, "precious")
    assert "--strict: stopped at prompt 1: the prompt is empty" in result.err
    assert len((tmp_path / "out.jsonl.partial").read_text(encoding="utf-8").splitlines()) == 2
