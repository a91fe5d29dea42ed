"""A corpus and a tokenizer to a trained GPT-2 checkpoint and its report."""

from __future__ import annotations

import json
import logging
import platform
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2ja_onnx.errors import CheckpointError, CorpusError
from gpt2ja_onnx.files import check_apart
from gpt2ja_train.blocks import load_blocks
from gpt2ja_train.evaluation import evaluate, load_held_out
from gpt2ja_train.hardware import hardware_name
from gpt2ja_train.network import make_network, save_network
from gpt2ja_train.resume import check_resumable, find_checkpoint
from gpt2ja_train.run_directory import (
    CACHE,
    CHECKPOINTS,
    REPORT,
    check_run_directory,
    remove_temporary,
)

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

    from gpt2ja_train.training_settings import TrainingSettings

_TRAIN, _VALID, _TEST = _FILES = ("train.txt", "valid.txt", "test.txt")


def train_model(
    corpus: Path,
    tokenizer: Path,
    output: Path,
    settings: TrainingSettings,
    *,
    resume: bool | Path = False,
    keep_checkpoints: bool = False,
) -> dict[str, Any]:
    """Train a GPT-2 and write its Hugging Face checkpoint and ``training.json`` to `output`.

    Until the run has finished, ``output/checkpoints`` holds the state that `resume` continues
    from, and ``output/cache`` the encoded corpus.

    Args:
        corpus: A directory that `make_corpus` wrote.
        tokenizer: A directory that `train_tokenizer` wrote.
        output: The directory to write.
        settings: Shape and schedule.
        resume: Continue from the last checkpoint in `output`; or, as a run of its own, from this
            checkpoint of another run. With the same settings the run goes on as if it had not
            been interrupted. `max_steps`, `batch_size`, `block_tokens`, schedule, evaluations and
            `dtype` may differ.
        keep_checkpoints: Leave ``checkpoints`` and ``cache`` in `output` at the end, so that even
            a finished run can be resumed, with more steps for example.

    Returns:
        The report that is also written to ``training.json``: losses in nats a token, perplexities
        a token, bits a character line by line and of running text, the loss curve, hardware and
        time.

    Raises:
        CorpusError: A file of the corpus is missing, or shorter than one block.
        CheckpointError: The tokenizer is missing, `init_from` cannot be read or has another
            context, or there is nothing to resume, or it was begun with another shape,
            vocabulary, optimizer or learning rate.
        OutputError: `output` holds a training run already and `resume` is not set, or files that
            the run would overwrite or remove; or it is, holds or lies inside an input.
    """
    import torch
    from transformers import set_seed

    from gpt2ja_train.trainer import make_trainer

    branches = isinstance(resume, Path)
    given = [path for path in (settings.init_from, resume) if isinstance(path, str | Path)]
    check_apart(output, [corpus, tokenizer, *given])
    _check_inputs(corpus, tokenizer)
    check_run_directory(output, resume=resume is True)
    checkpoint = find_checkpoint(output, resume)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    set_seed(settings.seed)
    spiece, cache = tokenizer / "spiece.model", output / CACHE
    model = make_network(spiece, settings)
    if checkpoint is not None:
        check_resumable(checkpoint, model.config, settings)
    train = load_blocks(corpus / _TRAIN, spiece, settings.tokens_per_block, cache)
    if not len(train):
        raise CorpusError(f"{corpus / _TRAIN}: has no block of {settings.tokens_per_block} tokens")
    valid, test = (
        load_held_out(corpus / name, spiece, settings.context, cache) for name in (_VALID, _TEST)
    )
    trainer = make_trainer(
        model, train, valid.lines, output / CHECKPOINTS, settings, branches=branches
    )
    started = time.monotonic()
    with warnings.catch_warnings():
        # A resumed run restores its own schedule; torch warns about the order of its parts.
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - started
    curve: list[dict[str, Any]] = [
        {key: entry[key] for key in ("step", "loss", "eval_loss") if key in entry}
        for entry in trainer.state.log_history
        if "loss" in entry or "eval_loss" in entry
    ]
    report = {
        "settings": asdict(settings) | _sizes(model),
        "parameters": model.num_parameters(),
        "train_blocks": len(train),
        "steps": result.global_step,
        "tokens_seen": trainer.state.num_input_tokens_seen,
        "seconds": round(seconds, 1),
        "train_loss": _last(curve, "loss", result.training_loss),
        **evaluate(trainer, valid),
        **evaluate(trainer, test),
        "curve": curve,
        "bf16": trainer.args.bf16,
        "hardware": hardware_name(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    if trainer.is_world_process_zero():
        save_network(model, tokenizer, output, settings.save_dtype)
        (output / REPORT).write_text(json.dumps(report, indent=2) + "\n")
        if not keep_checkpoints:
            remove_temporary(output)
    return report


def _sizes(model: GPT2LMHeadModel) -> dict[str, int]:
    """The shape that a model has, whatever the settings of a run that goes on from it say."""
    config = model.config
    return {"layers": config.n_layer, "width": config.n_embd, "heads": config.n_head}


def _check_inputs(corpus: Path, tokenizer: Path) -> None:
    for name in _FILES:
        if not (corpus / name).is_file():
            raise CorpusError(f"{corpus / name}: no such file; make it with `train corpus`")
    if not (tokenizer / "spiece.model").is_file():
        raise CheckpointError(f"{tokenizer}: has no spiece.model; make it with `train tokenizer`")


def _last(history: list[dict[str, Any]], key: str, default: float) -> float:
    return next((entry[key] for entry in reversed(history) if key in entry), default)
