"""Weights to whole numbers: as GPTQ is written down, and better than the nearest ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from gpt2ja_export.rounding import INT4_BLOCK, int4_blocks, int8_columns
from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from numpy.typing import NDArray

INPUTS, OUTPUTS = 3 * INT4_BLOCK, 40


def weights_and_inputs() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights, and rows of inputs that lie near a plane of 20 dimensions."""
    random = np.random.default_rng(7)
    weight = random.standard_normal((INPUTS, OUTPUTS)).astype(np.float32)
    inputs = random.standard_normal((500, 20)) @ random.standard_normal((20, INPUTS))
    inputs += random.standard_normal((500, INPUTS)) / 10
    return weight, inputs.astype(np.float32)


def gram_of(inputs: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(inputs.T @ inputs / len(inputs))


def restored4(
    packed: NDArray[np.uint8], scales: NDArray[np.float32], points: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """MatMulNBits' layout to weights of shape (inputs, outputs)."""
    outputs, blocks, _ = packed.shape
    values = np.stack([packed & 15, packed >> 4], axis=-1).reshape(outputs, blocks, INT4_BLOCK)
    zeros = np.stack([points & 15, points >> 4], axis=-1).reshape(outputs, -1)[:, :blocks]
    steps = scales.reshape(outputs, blocks, 1)
    weights = (values.astype(np.float32) - zeros[..., None]) * steps
    found: NDArray[np.float32] = weights.reshape(outputs, -1).T
    return found


def optimal_brain_quantizer(
    weight: NDArray[np.float32], gram: torch.Tensor, scales: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Equation 2 of the paper in float64, with a new inverse for the inputs left each time."""
    hessian = gram.double().numpy().copy()
    hessian += 0.1 * hessian.diagonal().mean() * np.eye(len(hessian))
    left, found = weight.astype(np.float64), np.zeros(weight.shape)
    for index in range(len(left)):
        inverse = np.linalg.inv(hessian[index:, index:])
        found[index] = np.clip(np.rint(left[index] / scales), -127, 127) * scales
        error = (left[index] - found[index]) / inverse[0, 0]
        left[index:] -= np.outer(inverse[:, 0], error)
    return found


def test_int8_is_what_the_paper_says() -> None:
    weight, inputs = weights_and_inputs()
    whole, scales = int8_columns(weight, gram_of(inputs))
    assert whole.dtype == np.int8
    expected = optimal_brain_quantizer(weight, gram_of(inputs), scales)
    # Single precision decides a few ties differently, and what follows them.
    assert np.mean(np.abs(whole * scales - expected) < scales / 2) > 0.98


def test_products_keep_more_than_with_the_nearest_numbers() -> None:
    weight, inputs = weights_and_inputs()

    def error(found: NDArray[np.float32]) -> float:
        return float(np.square(inputs @ (found - weight)).mean())

    for quantized, diagonal in (
        [whole * scales for whole, scales in (int8_columns(weight, g) for g in grams(inputs))],
        [restored4(*int4_blocks(weight, g)) for g in grams(inputs)],
    ):
        assert error(quantized) < error(diagonal) / 2


def grams(inputs: NDArray[np.float32]) -> list[torch.Tensor]:
    """The inputs' own, and one of inputs that have nothing to do with each other."""
    return [gram_of(inputs), torch.eye(inputs.shape[1])]


def test_unrelated_inputs_get_the_nearest_numbers() -> None:
    weight, _ = weights_and_inputs()
    gram = torch.diag(torch.arange(1.0, INPUTS + 1))
    whole, scales = int8_columns(weight, gram)
    np.testing.assert_allclose(np.abs(weight).max(axis=0) / 127, scales, rtol=1e-6)
    np.testing.assert_array_equal(whole, np.rint(weight / scales))
    int4 = int4_blocks(weight, gram)
    assert int4.packed.shape == (OUTPUTS, 3, INT4_BLOCK // 2)
    assert (int4.scales.shape, int4.zero_points.shape) == ((OUTPUTS, 3), (OUTPUTS, 2))
    np.testing.assert_array_equal(int4.restored().numpy(), restored4(*int4))
    difference = np.abs(restored4(*int4) - weight)
    step = np.repeat(int4.scales, INT4_BLOCK, axis=1).T
    assert np.mean(difference <= step * 0.501) > 0.95  # the others are clipped: it costs less


def test_inputs_at_rest() -> None:
    weight, _ = weights_and_inputs()
    whole, scales = int8_columns(weight, torch.zeros(INPUTS, INPUTS))
    np.testing.assert_array_equal(whole, np.rint(weight / scales))
    zeros, _ = int8_columns(np.zeros_like(weight), torch.eye(INPUTS))
    assert not zeros.any()


def test_inputs_that_are_not_finite() -> None:
    weight, _ = weights_and_inputs()
    with pytest.raises(ExportError, match="activations on the calibration text are not finite"):
        int8_columns(weight, torch.full((INPUTS, INPUTS), torch.nan))
