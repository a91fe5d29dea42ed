"""A corpus and a tokenizer to a trained GPT-2 checkpoint, with transformers' Trainer."""

from __future__ import annotations

import json
import logging
import math
import platform
import time
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import sentencepiece

from gpt2ja_onnx.errors import CheckpointError, CorpusError
from gpt2ja_onnx.files import check_apart
from gpt2ja_train.blocks import collate, load_blocks
from gpt2ja_train.hardware import hardware_name, prefers_bf16
from gpt2ja_train.network import make_network, save_network
from gpt2ja_train.run_directory import (
    CACHE,
    CHECKPOINTS,
    REPORT,
    check_run_directory,
    remove_temporary,
)

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset
    from transformers import GPT2LMHeadModel, Trainer

    from gpt2ja_train.training_settings import TrainingSettings

_FILES = ("train.txt", "valid.txt", "test.txt")


def train_model(
    corpus: Path,
    tokenizer: Path,
    output: Path,
    settings: TrainingSettings,
    *,
    resume: bool = False,
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
        resume: Continue from the last checkpoint in `output`.
        keep_checkpoints: Leave ``checkpoints`` and ``cache`` in `output` at the end, so that even
            a finished run can be resumed, with more steps for example.

    Returns:
        The report that is also written to ``training.json``: losses in nats a token, test
        perplexity a token, bits a character, the loss curve, hardware and time.

    Raises:
        CorpusError: A file of the corpus is missing, or shorter than one block.
        CheckpointError: The tokenizer is missing, `init_from` cannot be read or has another
            vocabulary or context, or there is nothing to resume.
        OutputError: `output` holds a training run already and `resume` is not set, or files that
            the run would overwrite or remove; or it is, holds or lies inside an input.
    """
    import torch
    from transformers import set_seed

    check_apart(output, [corpus, tokenizer, *filter(None, [settings.init_from])])
    _check_inputs(corpus, tokenizer)
    check_run_directory(output, resume=resume)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    set_seed(settings.seed)
    spiece = tokenizer / "spiece.model"
    model = make_network(spiece, settings)
    train, valid, test = (
        load_blocks(corpus / name, spiece, settings.context, output / CACHE) for name in _FILES
    )
    for name, blocks in zip(_FILES, (train, valid, test), strict=True):
        if not len(blocks):
            raise CorpusError(f"{corpus / name}: has no block of {settings.context} tokens")

    trainer = _trainer(model, train, valid, output, settings)
    started = time.monotonic()
    with warnings.catch_warnings():
        # A resumed run restores its own schedule; torch warns about the order of its parts.
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        result = trainer.train(resume_from_checkpoint=resume)
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
        "tokens_seen": result.global_step * _tokens_per_step(trainer, settings),
        "seconds": round(seconds, 1),
        "train_loss": _last(curve, "loss", result.training_loss),
        "valid_loss": trainer.evaluate(valid)["eval_loss"],
        **_test_figures(trainer.evaluate(test)["eval_loss"], test, corpus / "test.txt", spiece),
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


def _trainer(
    model: GPT2LMHeadModel,
    train: Dataset,
    valid: Dataset,
    output: Path,
    settings: TrainingSettings,
) -> Trainer:
    import torch
    from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    from gpt2ja_train.optimizer import make_optimizer
    from gpt2ja_train.progress import Milestones, ProgressBar

    strategy = "steps" if settings.eval_steps else "epoch"
    arguments = TrainingArguments(
        output_dir=str(output / CHECKPOINTS),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup_steps,
        max_grad_norm=1.0,
        eval_strategy=strategy,
        save_strategy=strategy,
        eval_steps=settings.eval_steps or None,
        save_steps=settings.eval_steps or 500,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        logging_steps=50,
        bf16=prefers_bf16(model),
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        label_names=["labels"],
        prediction_loss_only=True,
        average_tokens_across_devices=False,
        disable_tqdm=True,
        report_to=[],
        seed=settings.seed,
    )

    class OurTrainer(Trainer):
        def create_optimizer(self) -> Any:
            name, rate = settings.optimizer, settings.learning_rate
            self.optimizer = make_optimizer(name, model, rate, bf16=self.args.bf16)
            return self.optimizer

    trainer = OurTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=valid,
        data_collator=collate,
        callbacks=[
            EarlyStoppingCallback(early_stopping_patience=settings.patience),
            Milestones(settings.checkpoint_steps),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressBar(_tokens_per_step(trainer, settings)))
    return trainer


def _tokens_per_step(trainer: Trainer, settings: TrainingSettings) -> int:
    return int(settings.batch_size * settings.context * trainer.args.world_size)


def _test_figures(loss: float, blocks: Dataset, text: Path, spiece: Path) -> dict[str, float]:
    """Perplexity a token and bits a character, from the mean loss in nats a token.

    Bits a character = loss / ln 2 × tokens / characters, over the whole file without its line
    breaks; the few tokens of the dropped remainder are taken to cost the mean.
    """
    processor = sentencepiece.SentencePieceProcessor(model_file=str(spiece))
    tokens = characters = 0
    with text.open(encoding="utf-8") as lines:
        for line in lines:
            tokens += len(processor.encode(line.strip()))
            characters += len(line.strip())
    return {
        "test_loss": loss,
        "test_tokens": len(blocks) * len(blocks[0]["input_ids"]),
        "test_perplexity": math.exp(loss),
        "test_bits_per_character": loss / math.log(2) * tokens / characters,
    }


def _last(history: list[dict[str, Any]], key: str, default: float) -> float:
    return next((entry[key] for entry in reversed(history) if key in entry), default)
