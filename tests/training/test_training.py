"""The recipe on a slice of text, end to end, and its parts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import sentencepiece
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpt2ja_onnx.bundle.demo import demo_checkpoint
from gpt2ja_onnx.cli import main
from gpt2ja_onnx.errors import CheckpointError, CorpusError, OutputError, SettingError
from gpt2ja_train import CorpusSettings, TrainingSettings, make_corpus, train_model
from gpt2ja_train.blocks import iterate_blocks
from gpt2ja_train.network import make_network
from gpt2ja_train.optimizer import make_optimizer
from tests.conftest import SAMPLE

if TYPE_CHECKING:
    from pathlib import Path


DEMO_SPIECE = demo_checkpoint() / "spiece.model"


def read(directory: Path) -> dict[str, list[str]]:
    return {
        p: (directory / f"{p}.txt").read_text().splitlines() for p in ("train", "valid", "test")
    }


def test_lines_are_split_as_the_card_does(tmp_path: Path) -> None:
    source = tmp_path / "raw.txt"
    source.write_text("一。二。\n\n 三 \n四。五")
    make_corpus([str(source)], tmp_path / "out", CorpusSettings(valid_lines=1, test_lines=2))
    assert read(tmp_path / "out") == {
        "train": ["四。", "五"],
        "valid": ["一。"],
        "test": ["二。", "三"],
    }


@pytest.mark.parametrize("form", ["tags", "json"])
def test_documents_of_wikiextractor_stay_whole(tmp_path: Path, form: str) -> None:
    source = tmp_path / "AA" / "wiki_00"
    source.parent.mkdir()
    documents = {str(n): f"題{n}\n\n文{n}の一。文{n}の二。" for n in range(200)}
    if form == "tags":
        texts = [f'<doc id="{i}" url="" title="">\n{t}\n</doc>\n' for i, t in documents.items()]
    else:
        texts = [json.dumps({"id": i, "text": t}) + "\n" for i, t in documents.items()]
    source.write_text("".join(texts))
    make_corpus([str(source.parent)], tmp_path / "out", CorpusSettings(held_out=0.1))
    parts = read(tmp_path / "out")
    assert sum(map(len, parts.values())) == 600
    for lines in parts.values():
        assert len(lines) % 3 == 0
        assert lines[0::3] == [f"題{line[1:-3]}" for line in lines[1::3]]
    assert 0.04 < len(parts["valid"]) / 600 < 0.2


def test_a_corpus_that_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="train 0, valid 36, test 0"):
        make_corpus([str(SAMPLE)], tmp_path / "out", CorpusSettings())
    assert [*tmp_path.iterdir()] == []


def test_blocks_are_one_stream_with_targets_shifted_by_one(
    tokenizer_dir: Path, tmp_path: Path
) -> None:
    spiece = str(tokenizer_dir / "spiece.model")
    processor = sentencepiece.SentencePieceProcessor(model_file=spiece)
    stream = [t for line in SAMPLE.read_text().splitlines() for t in processor.encode(line)]
    blocks = list(iterate_blocks(str(SAMPLE), spiece, 16))
    assert len(blocks) == (len(stream) - 1) // 16
    assert [t for b in blocks for t in b["input_ids"]] == stream[: len(blocks) * 16]
    assert [t for b in blocks for t in b["shift_labels"]] == stream[1 : len(blocks) * 16 + 1]


@pytest.mark.parametrize("prefix", [True, False])
def test_what_the_dummy_prefix_does_to_running_text(
    tokenizer_dir: Path, tokenizer_without_prefix: Path, tmp_path: Path, prefix: bool
) -> None:
    spiece = str((tokenizer_dir if prefix else tokenizer_without_prefix) / "spiece.model")
    processor = sentencepiece.SentencePieceProcessor(model_file=spiece)
    lines = ["朝の市場には、店が並ぶ。", "店の人は、魚を並べる。"] * 700
    text = tmp_path / "text.txt"
    text.write_text("\n".join(lines))

    def decoded(*, running: bool) -> str:
        blocks = iterate_blocks(str(text), spiece, 8, running=running)
        return processor.decode([int(t) for block in blocks for t in block["input_ids"]])

    apart, joined = (" " if prefix else "").join(lines), "".join(lines)
    assert apart.startswith(decoded(running=False))
    running = decoded(running=True)
    # Lines are joined a thousand to a text: 1,400 lines are two.
    second = joined[: len(joined) * 1000 // 1400] + (" " if prefix else "")
    assert (second + joined[len(joined) * 1000 // 1400 :]).startswith(running)
    assert len(running) > 0.99 * len(joined)


def test_settings_default_to_the_card() -> None:
    s = TrainingSettings()
    assert (s.layers, s.width, s.heads, s.context) == (12, 768, 12, 1024)
    assert (s.epochs, s.batch_size, s.learning_rate, s.patience) == (10, 2, 1e-4, 1)
    assert (s.tokens_per_block, s.lr_scheduler_type, s.optimizer) == (1024, "linear", "adam")
    with pytest.raises(SettingError, match="optimizer must be one of"):
        TrainingSettings(optimizer="sgd")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="width 10 is not a multiple of heads 3"):
        TrainingSettings(width=10, heads=3)


def test_muon_trains_the_matrices_of_the_blocks_and_adam_the_rest() -> None:
    settings = TrainingSettings(layers=1, width=32, heads=1, context=16)
    model = make_network(DEMO_SPIECE, settings)
    optimizer = make_optimizer("muon", model, 1e-3, bf16=False)
    sizes = [[p.ndim for p in group["params"]] for group in optimizer.param_groups]
    assert sizes[1] == [2] * 4
    assert sum(map(len, sizes)) == len(list(model.parameters()))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    ids = torch.arange(16)[None]
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    moved = [(a != b).any().item() for a, b in zip(before, model.parameters(), strict=True)]
    assert all(moved)


@pytest.mark.parametrize(
    ("left", "resume", "kind", "message"),
    [
        (["checkpoints/checkpoint-5"], False, OutputError, "a training run already; use --resume"),
        (["training.json"], False, OutputError, "holds a finished training run; use another name"),
        (["training.json"], True, CheckpointError, "which --keep-checkpoints would have kept"),
        (["cache"], True, CheckpointError, "has no checkpoint to resume from"),
    ],
)
def test_what_an_earlier_run_left(
    tmp_path: Path, left: list[str], resume: bool, kind: type[Exception], message: str
) -> None:
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    for directory in (corpus, *(output / name for name in left)):
        directory.mkdir(parents=True)
    for name in ("train", "valid", "test"):
        (corpus / f"{name}.txt").touch()
    with pytest.raises(kind, match=message):
        train_model(corpus, DEMO_SPIECE.parent, output, TrainingSettings(), resume=resume)
    assert names(output) == {name.split("/")[0] for name in left}


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


# The libraries under the trainer warn of each other; none of it is ours to mend.
@pytest.mark.filterwarnings("ignore")
def test_the_recipe_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text → corpus → tokenizer → model → resumed → gone on from → bundle → text."""
    monkeypatch.chdir(tmp_path)
    lines = SAMPLE.read_text().splitlines()
    for name, part in (("train", lines * 6), ("valid", lines[:12]), ("test", lines[12:24])):
        (tmp_path / f"{name}.raw").write_text("\n".join(part))
    assert call("train", "corpus", "train.raw", "--valid", "valid.raw", "--test", "test.raw",
                "--output", "corpus") == 0  # fmt: skip
    assert call("train", "tokenizer", "--corpus", "corpus", "--output", "tokenizer",
                "--vocab-size", 384) == 0  # fmt: skip
    assert type(AutoTokenizer.from_pretrained("tokenizer")).__name__ == "BertGenerationTokenizer"
    options = ("train", "model", "--corpus", "corpus", "--tokenizer", "tokenizer", "--output",
               "model", "--layers", 1, "--width", 32, "--heads", 1, "--context", 32,
               "--optimizer", "muon", "--learning-rate", 0.01, "--eval-steps", 10,
               "--checkpoint-steps", 5, "--patience", 9, "--save-dtype", "float16")  # fmt: skip
    assert call(*options, "--max-steps", 23, "--keep-checkpoints") == 0
    assert {"checkpoints", "cache"} <= names(tmp_path / "model")
    first = json.loads((tmp_path / "model/training.json").read_text())
    losses = [entry["eval_loss"] for entry in first["curve"] if "eval_loss" in entry]
    assert [e["step"] for e in first["curve"] if "eval_loss" in e] == [10, 20, 23]
    assert losses[-1] < losses[0] < 6.2  # ln 384 = 5.95, where training starts

    # Both halves of the held-out text are a part of the training text.
    assert first["test_running_bits_per_character"] < 1.5 * first["test_bits_per_character"]

    assert call(*options, "--max-steps", 40) == 1
    assert "use --resume" in capsys.readouterr().err
    assert call(*options, "--max-steps", 40, "--resume", "--optimizer", "adam") == 1
    assert "begun with another optimizer" in capsys.readouterr().err
    assert call(*options, "--output", "other", "--resume", "model") == 1
    assert "is not a checkpoint of a training run" in capsys.readouterr().err
    assert call(*options, "--max-steps", 40, "--resume") == 0
    second = json.loads((tmp_path / "model/training.json").read_text())
    assert second["steps"] == 40
    assert second["valid_loss"] < first["valid_loss"]
    assert second["test_bits_per_character"] > 0
    assert second["tokens_seen"] == 40 * 2 * 32
    assert not {"checkpoints", "cache"} & names(tmp_path / "model")
    assert call(*options, "--max-steps", 60, "--resume") == 1
    assert "which --keep-checkpoints would have kept" in capsys.readouterr().err

    further = ("train", "model", "--corpus", "corpus", "--tokenizer", "tokenizer", "--output",
               "further", "--init-from", "model", "--max-steps", 1, "--learning-rate", 1e-9,
               "--checkpoint-steps", 5)  # fmt: skip
    assert call(*further) == 1
    assert "has a context of 32, expected 1024" in capsys.readouterr().err
    assert call(*further, "--context", 32) == 0
    third = json.loads((tmp_path / "further/training.json").read_text())
    assert third["valid_loss"] == pytest.approx(second["valid_loss"], abs=0.02)
    assert third["parameters"] == second["parameters"]
    assert third["settings"]["layers"] == 1
    assert [entry["step"] for entry in third["curve"] if "eval_loss" in entry] == [1]
    other = call(*further, "--context", 32, "--output", "other", "--tokenizer", DEMO_SPIECE.parent)
    assert other == 0
    assert "of 8,000 pieces keep their embeddings" in capsys.readouterr().err

    assert AutoModelForCausalLM.from_pretrained("model", dtype="auto").dtype.itemsize == 2
    assert call("export", "model", "bundle", "--precision", "fp32") == 0
    assert call("generate", "朝の", "--model", "bundle") == 0
