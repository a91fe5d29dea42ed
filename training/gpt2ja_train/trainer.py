"""transformers' Trainer, set up for a run: optimiser, schedule, checkpoints, progress."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from gpt2ja_train.blocks import collate
from gpt2ja_train.hardware import choose_precision
from gpt2ja_train.optimizer import make_optimizer
from gpt2ja_train.progress import Milestones, ProgressBar

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset
    from transformers import GPT2LMHeadModel

    from gpt2ja_train.training_settings import TrainingSettings


def make_trainer(
    model: GPT2LMHeadModel,
    train: Dataset,
    valid: Dataset,
    checkpoints: Path,
    settings: TrainingSettings,
    *,
    branches: bool,
) -> Trainer:
    """A trainer that shows its progress and keeps the best and the last checkpoint.

    The dtype that it computes in, and why, goes to stderr.

    Args:
        model: What to train.
        train: Blocks of ``settings.tokens_per_block`` tokens.
        valid: Blocks of ``settings.context`` tokens.
        checkpoints: Directory of the checkpoints.
        settings: Schedule of the run.
        branches: Whether the run begins with a checkpoint of another one.

    Raises:
        SettingError: The GPU does not have the dtype of the settings.
    """
    precision = choose_precision(
        settings.dtype, model, settings.batch_size, settings.tokens_per_block
    )
    arguments = _arguments(checkpoints, settings, bf16=precision.bf16)

    class OurTrainer(Trainer):
        def create_optimizer(self) -> Any:
            name, rate = settings.optimizer, settings.learning_rate
            self.optimizer = make_optimizer(name, model, rate, bf16=precision.bf16)
            return self.optimizer

        def get_train_dataloader(self) -> Any:
            # A resumed run's batches are those of its settings, not those of the checkpoint.
            self._train_batch_size = self.args.train_batch_size
            return super().get_train_dataloader()

    trainer = OurTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=valid,
        data_collator=collate,
        callbacks=[
            EarlyStoppingCallback(early_stopping_patience=settings.patience),
            Milestones(settings.checkpoint_steps, branches=branches),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    tokens_per_step = settings.batch_size * settings.tokens_per_block * trainer.args.world_size
    trainer.add_callback(ProgressBar(tokens_per_step))
    if trainer.is_world_process_zero():
        print(precision.reason, file=sys.stderr)
    return trainer


def _arguments(checkpoints: Path, settings: TrainingSettings, *, bf16: bool) -> TrainingArguments:
    decay: dict[str, Any] = {}
    if settings.lr_scheduler_type == "warmup_stable_decay":
        decay = {"num_decay_steps": settings.decay_steps, "decay_type": "linear"}
    strategy = "steps" if settings.eval_steps else "epoch"
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.batch_size,
        # About as many tokens a batch as in training.
        per_device_eval_batch_size=max(
            1, settings.batch_size * settings.tokens_per_block // settings.context
        ),
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        lr_scheduler_kwargs=decay,
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
        include_num_input_tokens_seen="all",
        bf16=bf16,
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
