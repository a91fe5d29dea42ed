"""What a training run shows: a bar with loss, learning rate and speed, and checkpoints by step."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ProgressBar(TrainerCallback):
    """A bar on stderr; on anything but a terminal, a line for every logged step."""

    def __init__(self, tokens_per_step: int) -> None:
        self._tokens_per_step = tokens_per_step
        self._bar: tqdm[Any] | None = None
        self._started = 0.0
        self._first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the bar at the step that training starts or resumes from."""
        self._started = time.monotonic()
        self._first_step = state.global_step
        if state.is_world_process_zero and sys.stderr.isatty():
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the figures of the last logged step."""
        if not state.is_world_process_zero or logs is None:
            return
        seconds = time.monotonic() - self._started
        speed = (state.global_step - self._first_step) * self._tokens_per_step / max(seconds, 1e-9)
        shown = {
            name: f"{logs[key]:.4g}"
            for key, name in (("loss", "loss"), ("eval_loss", "valid"), ("learning_rate", "lr"))
            if key in logs
        }
        if not shown:
            return
        shown["tokens/s"] = f"{speed:.0f}"
        if self._bar is not None:
            self._bar.set_postfix(shown)
        else:
            remaining = (state.max_steps - state.global_step) * self._tokens_per_step
            shown["left"] = f"{remaining / max(speed, 1e-9) / 60:.0f} min"
            figures = " ".join(f"{name} {value}" for name, value in shown.items())
            print(f"step {state.global_step}/{state.max_steps} {figures}", file=sys.stderr)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Milestones(TrainerCallback):
    """A checkpoint every `steps` steps beside those that evaluation asks for, and a last look.

    Without an evaluation of the last step an earlier one would pass for the best, and its weights
    for the result.

    Args:
        steps: Between two checkpoints.
        branches: Whether the run begins with a checkpoint of another one, whose best weights are
            not this one's.
    """

    def __init__(self, steps: int, *, branches: bool) -> None:
        self._steps = steps
        self._branches = branches

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Evaluate as often as this run's settings say, not those of the checkpoint."""
        state.compute_steps(args, state.max_steps)
        if self._branches:
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask for what is due at this step."""
        last = state.global_step >= state.max_steps
        if last or state.global_step % self._steps == 0:
            control.should_save = True
        if last and args.eval_strategy == "steps":  # the end of an epoch is evaluated anyway
            control.should_evaluate = True
