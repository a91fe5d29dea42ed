"""Shape and schedule of a training run, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gpt2ja_onnx.errors import SettingError

OptimizerName = Literal["adam", "muon"]


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Shape and schedule of a training run; the defaults are GPT-2 small and the model card's.

    Attributes:
        init_from: Checkpoint to go on from, a directory or a hub id; its shape takes the place
            of `layers`, `width` and `heads`. None starts with random weights.
        layers: Transformer blocks.
        width: Width of the residual stream.
        heads: Attention heads; must divide `width`.
        context: Positions, and tokens a block.
        dropout: All three dropouts of GPT-2.
        epochs: Passes over the training blocks.
        max_steps: Stop after so many steps, the learning rate falling to 0 there; 0 means
            that `epochs` decides.
        batch_size: Blocks a step and device.
        optimizer: ``adam`` (0.9, 0.999, 1e-8), the card's; ``muon`` reaches the same loss in
            fewer steps.
        learning_rate: Its peak.
        warmup_steps: Steps in which the learning rate rises from 0.
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
    dropout: float = 0.1
    epochs: int = 10
    max_steps: int = 0
    batch_size: int = 2
    optimizer: OptimizerName = "adam"
    learning_rate: float = 1e-4
    warmup_steps: int = 0
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
        if self.optimizer not in get_args(OptimizerName):
            raise SettingError(
                f"optimizer must be one of {get_args(OptimizerName)}, not {self.optimizer!r}"
            )
        if self.learning_rate <= 0:
            raise SettingError(f"learning_rate must be above 0, not {self.learning_rate}")
