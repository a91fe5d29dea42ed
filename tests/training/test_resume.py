"""An interrupted run ends as it would have ended; what may change on the way, and what may not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from gpt2ja_onnx.bundle.demo import demo_checkpoint
from gpt2ja_onnx.errors import CheckpointError, SettingError
from gpt2ja_train import CorpusSettings, TrainingSettings, make_corpus, train_model
from tests.conftest import SAMPLE

if TYPE_CHECKING:
    from pathlib import Path

# The libraries under the trainer warn of each other; none of it is ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

SETTINGS = TrainingSettings(
    layers=1,
    width=32,
    heads=1,
    context=32,
    block_tokens=16,
    batch_size=8,
    dropout=0.1,
    max_steps=12,
    optimizer="muon",
    dtype="fp32",  # what is timed to be faster may change from run to run
    learning_rate=0.01,
    warmup_steps=2,
    lr_scheduler_type="warmup_stable_decay",
    decay_steps=4,
    eval_steps=4,
    checkpoint_steps=4,
    patience=9,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("corpus") / "out"
    text = str(SAMPLE)
    make_corpus([text], output, CorpusSettings(), valid=[text], test=[text])
    return output


@pytest.fixture(scope="module")
def run(
    corpus: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A finished run of 12 steps, and its report; its checkpoints of steps 8 and 12."""
    output = tmp_path_factory.mktemp("run") / "out"
    return output, train_model(corpus, tokenizer_dir, output, SETTINGS, keep_checkpoints=True)


def checkpoint(run: tuple[Path, dict[str, Any]], step: int) -> Path:
    return run[0] / "checkpoints" / f"checkpoint-{step}"


def evaluations(report: dict[str, Any]) -> dict[int, float]:
    return {e["step"]: e["eval_loss"] for e in report["curve"] if "eval_loss" in e}


def test_an_interrupted_run_ends_as_if_it_had_not_been(
    run: tuple[Path, dict[str, Any]], corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """As a kill after step 8, in the middle of writing step 12, leaves it."""
    whole, report = run
    output = tmp_path / "out"
    shutil.copytree(checkpoint(run, 8), output / "checkpoints" / "checkpoint-8")
    torn = output / "checkpoints" / "checkpoint-12"
    torn.mkdir()
    shutil.copy(checkpoint(run, 12) / "config.json", torn)
    assert report["train_blocks"] % SETTINGS.batch_size  # and an epoch does not end there
    resumed = train_model(corpus, tokenizer_dir, output, SETTINGS, resume=True)
    name = "model.safetensors"
    assert (output / name).read_bytes() == (whole / name).read_bytes()
    assert evaluations(resumed) == evaluations(report)
    for key in ("steps", "tokens_seen", "valid_loss", "test_running_bits_per_character"):
        assert resumed[key] == report[key]


def test_the_rate_stays_at_its_peak_until_the_decay(run: tuple[Path, dict[str, Any]]) -> None:
    rates = [
        torch.load(checkpoint(run, step) / "scheduler.pt", weights_only=True)["_last_lr"][0]
        for step in (8, 12)
    ]
    assert rates == [SETTINGS.learning_rate, 0.0]


def test_any_checkpoint_can_be_ended_in_a_run_of_its_own(
    run: tuple[Path, dict[str, Any]], corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in run[0].rglob("*") if path.is_file()}
    settings = dataclasses.replace(
        SETTINGS, max_steps=10, decay_steps=2, eval_steps=1, batch_size=4, block_tokens=32
    )
    report = train_model(
        corpus, tokenizer_dir, tmp_path / "out", settings, resume=checkpoint(run, 8)
    )
    assert before == {path: path.read_bytes() for path in run[0].rglob("*") if path.is_file()}
    assert [*evaluations(report)] == [4, 8, 9, 10]
    state = json.loads((checkpoint(run, 8) / "trainer_state.json").read_text())
    assert report["tokens_seen"] == state["num_input_tokens_seen"] + 2 * 4 * 32
    first = load_file(checkpoint(run, 8) / "model.safetensors")["transformer.wpe.weight"]
    second = load_file(tmp_path / "out" / "model.safetensors")["transformer.wpe.weight"]
    moved = (first != second).any(dim=1)
    assert moved.all()  # the positions beyond the first run's blocks as well
    start = load_file(checkpoint(run, 12) / "model.safetensors")["transformer.wpe.weight"]
    assert torch.equal(first[16:], start[16:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 64}, "was begun with --width 32, not 64; resume with --width 32"),
        ({"context": 64}, "was begun with --context 32, not 64"),
        ({"learning_rate": 0.02}, "was begun with --learning-rate 0.01, not 0.02"),
    ],
)
def test_what_a_run_was_begun_with_stays(
    run: tuple[Path, dict[str, Any]],
    corpus: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    settings = dataclasses.replace(SETTINGS, **changes)
    with pytest.raises(CheckpointError, match=message):
        train_model(corpus, tokenizer_dir, tmp_path / "out", settings, resume=checkpoint(run, 8))


def test_checkpoints_that_cannot_be_resumed(
    run: tuple[Path, dict[str, Any]], corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(checkpoint(run, 8), tmp_path / "broken")
    (broken / "scheduler.pt").write_text("no schedule")
    for tokenizer, given, message in (
        (demo_checkpoint(), checkpoint(run, 8), "has a vocabulary of 384, the tokenizer 8000"),
        (tokenizer_dir, run[0], "is not a checkpoint of a training run; name a directory"),
        (tokenizer_dir, broken, "broken: cannot be read: "),
    ):
        with pytest.raises(CheckpointError, match=message) as raised:
            train_model(corpus, tokenizer, tmp_path / "out", SETTINGS, resume=given)
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"block_tokens": 2048}, "block_tokens must be from 1 to the context of 1024"),
        ({"decay_steps": 5}, "decay_steps needs lr_scheduler_type warmup_stable_decay"),
        ({"decay_steps": -1}, "decay_steps must not be negative"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type must be one of"),
        ({"dtype": "fp16"}, "dtype must be one of"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        TrainingSettings(**values)


def test_the_report_names_its_settings(run: tuple[Path, dict[str, Any]]) -> None:
    saved = json.loads((run[0] / "training.json").read_text())
    assert saved["settings"] == dataclasses.asdict(SETTINGS)
    # The last batch of an epoch has what is left.
    epoch = saved["train_blocks"] * 16
    assert saved["tokens_seen"] == epoch + (12 - -(-saved["train_blocks"] // 8)) * 8 * 16
