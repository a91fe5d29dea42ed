"""Shape and schedule of a training run, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gpt2ja_onnx.errors import SettingError

OptimizerName = Literal["adam", "muon"]
Schedule = Literal["linear", "warmup_stable_decay"]
Dtype = Literal["auto", "fp32", "bf16"]
_CHOICES = {"optimizer": OptimizerName, "lr_scheduler_type": Schedule, "dtype": Dtype}


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Shape and schedule of a training run; the defaults are GPT-2 small and the model card's.

    Attributes:
        init_from: Checkpoint to go on from, a directory or a hub id; its shape takes the place
            of `layers`, `width` and `heads`. With another tokenizer, pieces that it knew keep
            their embeddings. None starts with random weights.
        layers: Transformer blocks.
        width: Width of the residual stream.
        heads: Attention heads; must divide `width`.
        context: Positions, and tokens a block of held-out text.
        block_tokens: Tokens a block of training text; 0 means `context`. Short blocks cost less
            a token, but positions beyond them stay untrained until a resumed run uses longer ones.
        dropout: All three dropouts of GPT-2.
        epochs: Passes over the training blocks.
        max_steps: Stop after so many steps; 0 means that `epochs` decides.
        batch_size: Blocks a step and device.
        optimizer: ``adam`` (0.9, 0.999, 1e-8), the card's; ``muon`` reaches the same loss in
            fewer steps.
        learning_rate: Its peak.
        warmup_steps: Steps in which the learning rate rises from 0.
        lr_scheduler_type: transformers' name of the learning rate's course: ``linear`` falls from
            the peak to 0 at the last step; ``warmup_stable_decay`` stays at the peak until
            `decay_steps` before the last step and falls to 0 from there.
        decay_steps: Steps of that fall; 0 stays at the peak to the end.
        dtype: In what matrices are multiplied; ``auto`` times both and takes the faster one.
        eval_steps: Steps between two evaluations; 0 means once an epoch.
        checkpoint_steps: Steps between two checkpoints: what an interruption can cost.
        patience: Evaluations without a better validation loss before training stops.
        seed: Seed of the weights, the dropout and the order of the blocks.
        save_dtype: dtype of the saved weights.
    """

    init_from: str | None = None
    layers: int = 12
    width: int = 768
    heads: int = 12
    context: int = 1024
    block_tokens: int = 0
    dropout: float = 0.1
    epochs: int = 10
    max_steps: int = 0
    batch_size: int = 2
    optimizer: OptimizerName = "adam"
    learning_rate: float = 1e-4
    warmup_steps: int = 0
    lr_scheduler_type: Schedule = "linear"
    decay_steps: int = 0
    dtype: Dtype = "auto"
    eval_steps: int = 0
    checkpoint_steps: int = 1000
    patience: int = 1
    seed: int = 0
    save_dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        at_least_one = (
            "layers", "width", "heads", "context", "epochs", "batch_size", "checkpoint_steps",
            "patience",
        )  # fmt: skip
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.width % self.heads:
            raise SettingError(f"width {self.width} is not a multiple of heads {self.heads}")
        if not 0 <= self.dropout < 1:
            raise SettingError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise SettingError(
                    f"{name} must be one of {get_args(kind)}, not {getattr(self, name)!r}"
                )
        if not 0 <= self.block_tokens <= self.context:
            raise SettingError(
                f"block_tokens must be from 1 to the context of {self.context}, or 0 for it, not "
                f"{self.block_tokens}"
            )
        if self.decay_steps < 0:
            raise SettingError(f"decay_steps must not be negative, not {self.decay_steps}")
        if self.decay_steps and self.lr_scheduler_type == "linear":
            raise SettingError("decay_steps needs lr_scheduler_type warmup_stable_decay")
        if self.learning_rate <= 0:
            raise SettingError(f"learning_rate must be above 0, not {self.learning_rate}")

    @property
    def tokens_per_block(self) -> int:
        """Tokens a block of training text."""
        return self.block_tokens or self.context
