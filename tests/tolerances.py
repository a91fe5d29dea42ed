"""The one place that says how near two numbers must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = float | list[float] | NDArray[np.floating]

# Largest absolute difference of a logit from PyTorch's, by precision.
LOGITS = {"fp32": 1e-4, "fp16": 5e-2, "bf16": 4e-1}
# Largest absolute difference of a native operator from its standard body, by operator, where
# outputs reach 100; 0 means bit for bit. Attention's queries and weights, and
# the activations of A16, are rounded to 16 bits; a norm's last bit moves some by a step.
OPERATORS = {
    "LinearResidual": 0,
    "NormLinear": 1e-4,
    "NormLinearGelu": 1e-4,
    "NormHead": 1e-4,
    "LinearResidualA16": 1e-4,
    "NormLinearA16": 1e-3,
    "NormLinearGeluA16": 1e-3,
    "LinearResidualInt4": 1e-4,
    "NormLinearInt4": 1e-4,
    "NormLinearGeluInt4": 1e-4,
    "Attention": 1e-3,
    "AttentionKV16": 1e-3,
}
PROBABILITY = 1e-6
LOGPROB = 1e-4


def assert_near(found: Numbers, expected: Numbers, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
