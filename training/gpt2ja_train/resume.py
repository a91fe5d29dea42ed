"""Which checkpoint a run continues from, and whether its settings allow that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2ja_onnx.errors import CheckpointError
from gpt2ja_train.run_directory import CHECKPOINTS

if TYPE_CHECKING:
    from transformers import GPT2Config

    from gpt2ja_train.training_settings import TrainingSettings

_STATE = "trainer_state.json"  # written last: a checkpoint that has it is whole
_SCHEDULE = "scheduler.pt"
_SHAPE = {"n_layer": "layers", "n_embd": "width", "n_head": "heads", "n_positions": "context"}


def find_checkpoint(output: Path, resume: bool | Path) -> Path | None:
    """The checkpoint to continue from: the one given, or the last whole one of `output`.

    Returns:
        Its directory; None if `resume` is False.

    Raises:
        CheckpointError: There is none.
    """
    if not resume:
        return None
    if isinstance(resume, Path):
        if not (resume / _STATE).is_file():
            raise CheckpointError(
                f"{resume}: is not a checkpoint of a training run; name a directory such as "
                f"RUN/{CHECKPOINTS}/checkpoint-1000"
            )
        return resume
    whole = [path.parent for path in (output / CHECKPOINTS).glob(f"checkpoint-*/{_STATE}")]
    if not whole:
        raise CheckpointError(f"{output}: has no whole checkpoint to resume from")
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]))


def check_resumable(checkpoint: Path, config: GPT2Config, settings: TrainingSettings) -> None:
    """Raise if a run with these settings would not be the same run.

    Args:
        checkpoint: As `find_checkpoint` returns it.
        config: Of the network to be trained.
        settings: Of the run.

    Raises:
        CheckpointError: The checkpoint's shape, vocabulary or learning rate is another one, or a
            file of it cannot be read.
    """
    import torch

    try:
        saved = json.loads((checkpoint / "config.json").read_text())
        (rate, *_) = torch.load(checkpoint / _SCHEDULE, weights_only=True)["base_lrs"]
        begun = {option: saved[name] for name, option in _SHAPE.items()}
        vocabulary = saved["vocab_size"]
    except Exception as error:  # JSON, pickle and the file system each raise their own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{checkpoint}: cannot be read: {reason}") from error
    if vocabulary != config.vocab_size:
        raise CheckpointError(
            f"{checkpoint}: has a vocabulary of {vocabulary}, the tokenizer {config.vocab_size}; "
            "resume with the tokenizer that the run was begun with"
        )
    given = {option: getattr(config, name) for name, option in _SHAPE.items()}
    begun["learning-rate"], given["learning-rate"] = rate, settings.learning_rate
    for option, value in begun.items():
        if value != given[option]:
            raise CheckpointError(
                f"{checkpoint}: was begun with --{option} {value}, not {given[option]}; resume "
                f"with --{option} {value}"
            )
