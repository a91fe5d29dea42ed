"""What log-probabilities are less than scores by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2ja_kernels import Kernels
    from gpt2ja_onnx.device.base import Floats


def log_normalisers(logits: Floats, native: Kernels | None = None) -> NDArray[np.float64]:
    """The logarithm of the sum of exp(logits) over the last axis.

    Args:
        logits: Raw scores, shape (…, vocabulary).
        native: The native operators, which add exponentials several times as fast.
    """
    if native is not None:
        largest, totals = native.sum_exponentials(np.ascontiguousarray(logits))
        return np.log(totals) + largest
    top = logits.max(axis=-1, keepdims=True)
    total = np.exp(logits - top).sum(axis=-1, dtype=np.float64)
    result: NDArray[np.float64] = top[..., 0] + np.log(total)
    return result
