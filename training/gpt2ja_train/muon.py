"""Muon, with its orthogonalisation in the dtype that the processor is fast in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MOMENTUM = 0.95
# Of the quintic iteration x ← a x + (b x xᵀ + c (x xᵀ)²) x, and how often it is repeated.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and without weight decay, for matrices.

    Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale of
    its steps: Liu et al., 2025, "Muon is Scalable for LLM Training". `torch.optim.Muon`, whose
    steps and state it shares, multiplies in bf16 on every device, which a processor without bf16
    emulates at a hundredth of the speed.

    Args:
        matrices: Two-dimensional parameters.
        lr: Learning rate; steps are scaled to the size that Adam's would have.
        dtype: In which the matrices are multiplied.
    """

    def __init__(
        self, matrices: Iterable[torch.nn.Parameter], lr: float, dtype: torch.dtype
    ) -> None:
        super().__init__(matrices, {"lr": lr})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step over all matrices, each of which has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - _MOMENTUM)
                update = orthogonalize(matrix.grad.lerp(momentum, _MOMENTUM), self._dtype)
                scale = 0.2 * math.sqrt(max(matrix.shape))
                matrix.add_(update, alpha=-group["lr"] * scale)


def orthogonalize(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """U Vᵀ of the singular value decomposition U S Vᵀ of `matrix`, approximately.

    The Newton–Schulz iteration of Jordan et al., 2024: five rounds bring the singular values near
    1, not to it.

    Args:
        matrix: Of shape (rows, columns).
        dtype: In which to multiply, and of the result.
    """
    a, b, c = _COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix.to(dtype) if wide else matrix.to(dtype).T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T
