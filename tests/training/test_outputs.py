"""What training commands write never takes the place of what they read, or did not make."""

from __future__ import annotations

import os
import shutil
from functools import partial
from typing import TYPE_CHECKING

import pytest

from gpt2ja_onnx.bundle.demo import demo_checkpoint
from gpt2ja_onnx.cli import main
from gpt2ja_onnx.errors import OutputError
from gpt2ja_train import (
    CorpusSettings,
    TokenizerSettings,
    TrainingSettings,
    make_corpus,
    train_model,
    train_tokenizer,
)
from gpt2ja_train.run_directory import check_run_directory, remove_temporary
from tests.conftest import SAMPLE, VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEMO_TOKENIZER = demo_checkpoint()
TEXT = "一。二。三。四。五。"
LINES = CorpusSettings(valid_lines=1, test_lines=1)
TOKENIZER = TokenizerSettings(vocab_size=VOCABULARY)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def expect_refusal(directory: Path, message: str, call: Callable[[], object]) -> None:
    before = contents(directory)
    with pytest.raises(OutputError, match=message) as raised:
        call()
    assert len(str(raised.value).splitlines()) == 1
    assert contents(directory) == before


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A directory with a text of a user's."""
    directory = tmp_path / "raw"
    directory.mkdir()
    (directory / "text.txt").write_text(TEXT)
    return directory


@pytest.fixture
def corpus(raw: Path, tmp_path: Path) -> Path:
    make_corpus([str(raw)], tmp_path / "corpus", LINES)
    return tmp_path / "corpus"


# --- train corpus ---


def test_the_raw_text_is_never_replaced(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(raw)
    text = str(raw / "text.txt")
    for output, inputs, held_out, message in (
        (raw, [str(raw)], [], "raw: is the input"),
        (raw, [str(tmp_path / "link")], [], "raw: is the input"),
        (raw, [text], [], r"raw: holds the input .*text\.txt"),
        (raw / "corpus", [str(raw)], [], "corpus: lies inside the input"),
        (raw, [str(SAMPLE)], [text], "raw: holds the input"),
        (raw, [str(SAMPLE)], [], r"raw: holds 'text\.txt' and is not a corpus"),
    ):
        expect_refusal(
            tmp_path,
            message,
            partial(make_corpus, inputs, output, LINES, valid=held_out, test=held_out, force=True),
        )


def test_the_command_leaves_the_raw_text(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(raw.parent)
    with pytest.raises(SystemExit) as ended:
        main(["train", "corpus", "raw", "--output", "raw", "--force"])
    assert ended.value.code == 1
    assert "raw: is the input raw; choose another output" in capsys.readouterr().err
    assert (raw / "text.txt").read_text() == TEXT


def test_force_replaces_a_corpus_alone(raw: Path, corpus: Path) -> None:
    def make() -> None:
        make_corpus([str(raw)], corpus, LINES, force=True)

    make()
    (corpus / "more.txt").write_text("mine")
    expect_refusal(corpus, r"corpus: holds 'more\.txt', which is no part of a corpus", make)
    (corpus / "more.txt").unlink()
    make()
    (corpus / "corpus.json").write_text("{}")
    expect_refusal(corpus, r"corpus: holds 'corpus\.json' and is not a corpus", make)
    (corpus / "corpus.json").unlink()
    expect_refusal(corpus, r"corpus: holds 'test\.txt' and is not a corpus", make)
    shutil.rmtree(corpus)
    corpus.mkdir()
    make()
    assert (corpus / "train.txt").read_text() == "三。\n四。\n五。\n"


# --- train tokenizer ---


def test_force_replaces_a_tokenizer_alone(tokenizer_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "corpus", tmp_path / "tokenizer"
    source.mkdir()
    shutil.copyfile(SAMPLE, source / "train.txt")
    shutil.copytree(tokenizer_dir, output)

    def train(output: Path = output) -> None:
        train_tokenizer(source, output, TOKENIZER, force=True)

    train()
    expect_refusal(tmp_path, "corpus: is the input", lambda: train(source))
    expect_refusal(tmp_path, "out: lies inside the input", lambda: train(source / "out"))
    expect_refusal(tmp_path, "holds the input", lambda: train(tmp_path))
    (output / "model.safetensors").write_text("weights")
    expect_refusal(tmp_path, r"holds 'model\.safetensors', which is no part of a tokenizer", train)
    (output / "model.safetensors").unlink()
    (output / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    expect_refusal(tmp_path, "and is not a tokenizer", train)


# --- train model ---


@pytest.fixture
def train(corpus: Path) -> Callable[..., None]:
    """A function that trains, if nothing is in its way."""

    def run(
        output: Path, tokenizer: Path = DEMO_TOKENIZER, *, init_from: str | None = None
    ) -> None:
        train_model(corpus, tokenizer, output, TrainingSettings(init_from=init_from))

    return run


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", r"holds config\.json, which the run would overwrite"),
        ("model-00001-of-00002.safetensors", "holds model-00001.*, which the run would overwrite"),
        ("cache/mine.txt", r"cache: holds what no training run has written"),
        ("checkpoints/mine/weights", r"checkpoints: holds what no training run has written"),
    ],
)
def test_a_run_overwrites_nothing(
    train: Callable[..., None], tmp_path: Path, name: str, message: str
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    expect_refusal(tmp_path, message, lambda: train(tmp_path / "out"))


def test_a_run_is_apart_from_its_inputs(
    train: Callable[..., None], corpus: Path, tmp_path: Path
) -> None:
    tokenizer = shutil.copytree(demo_checkpoint(), tmp_path / "tokenizer")
    first = shutil.copytree(demo_checkpoint(), tmp_path / "first")
    for output, message in (
        (corpus, "corpus: is the input"),
        (corpus / "model", "model: lies inside the input"),
        (tokenizer, "tokenizer: is the input"),
        (first, "first: is the input"),
        (tmp_path, "holds the input"),
    ):
        expect_refusal(tmp_path, message, partial(train, output, tokenizer, init_from=str(first)))
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    expect_refusal(tmp_path, "link: is a link", lambda: train(tmp_path / "link"))


def test_a_run_removes_only_what_it_wrote(tmp_path: Path) -> None:
    check_run_directory(tmp_path / "out", resume=False)
    for name in (
        "cache/generator/default-1/0.0.0/generator-train.arrow", "cache/.a.lock", "cache/b.lock",
        "checkpoints/checkpoint-5/model.safetensors", "run.log",
    ):  # fmt: skip
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    check_run_directory(tmp_path / "out", resume=True)
    later = tmp_path / "out" / "cache" / "mine.txt"
    later.write_text("mine")
    remove_temporary(tmp_path / "out")
    assert {os.path.relpath(path, tmp_path / "out") for path in tmp_path.rglob("*.*")} == {
        "cache/mine.txt",
        "run.log",
    }
    later.unlink()
    remove_temporary(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.log"]
