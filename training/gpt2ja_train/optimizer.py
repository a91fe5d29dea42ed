"""The optimisers of a training run: the model card's Adam, and Muon, which needs fewer tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from gpt2ja_onnx.errors import CheckpointError
from gpt2ja_train.muon import Muon

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from gpt2ja_train.training_settings import OptimizerName

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


def make_optimizer(
    name: OptimizerName, model: nn.Module, learning_rate: float, *, bf16: bool
) -> Any:
    """An optimiser over all parameters of a GPT-2, without weight decay.

    Args:
        name: ``adam``, or ``muon`` for the matrices of the blocks and Adam for the rest.
        model: Whose parameters to train.
        learning_rate: Of both; Muon's steps are scaled to the size that Adam's would have.
        bf16: Whether Muon multiplies in bf16 rather than in fp32.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    matrices = [p for n, p in parameters.items() if name == "muon" and p.ndim == 2 and ".h." in n]
    chosen = {id(matrix) for matrix in matrices}
    others = [p for p in parameters.values() if id(p) not in chosen]
    parts: dict[str, torch.optim.Optimizer] = {
        "adam": torch.optim.Adam(others, lr=learning_rate, betas=_BETAS, eps=_EPSILON, fused=True)
    }
    if matrices:
        parts["muon"] = Muon(matrices, learning_rate, torch.bfloat16 if bf16 else torch.float32)
    return _Optimizers(parts)


class _Optimizers(torch.optim.Optimizer):
    """Optimisers over different parameters as one, for a trainer that takes one."""

    def __init__(self, parts: dict[str, torch.optim.Optimizer]) -> None:
        self._parts = parts
        groups = [group for part in parts.values() for group in part.param_groups]
        super().__init__([{"params": group["params"]} for group in groups], {})
        self.param_groups = groups  # the parts' own: who changes a learning rate changes theirs

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of each."""
        assert closure is None
        for part in self._parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of the parts, by name."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what `state_dict` gave.

        Raises:
            CheckpointError: It comes from other optimisers.
        """
        if set(state_dict) != set(self._parts):
            raise CheckpointError(
                "the run was begun with another optimizer; resume it with the --optimizer that it "
                "had"
            )
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = [g for part in self._parts.values() for g in part.param_groups]
