"""Weights to whole numbers: to the nearest, or so that products keep what they give (GPTQ)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

INT4_BLOCK = 32
LOW_STEPS = 254  # of a low byte, in one step of the high one
_BLOCK = INT4_BLOCK  # inputs whose errors are passed on together; the result is the same with any
_DAMPING = 0.1  # of the mean of the diagonal: a short text says little of most directions
_SHRINKS = np.linspace(1.0, 0.7, 7)


def int8_rows(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Each row to the nearest whole numbers.

    Returns:
        The matrix, and the scale of each row.
    """
    scales = _int8_scales(matrix, axis=1)
    return np.rint(matrix / scales).astype(np.int8), scales[:, 0]


def int8_columns(
    weight: NDArray[np.float32], gram: Tensor
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Whole numbers with a scale a column, by GPTQ.

    Args:
        weight: Shape (inputs, outputs).
        gram: Mean outer product of an input with itself, shape (inputs, inputs).

    Returns:
        The matrix, and the scale of each column.
    """
    scales = torch.from_numpy(_int8_scales(weight, axis=0)[0])
    whole = torch.empty(weight.shape, dtype=torch.int8)

    def quantize(index: int, row: Tensor) -> Tensor:
        rounded = (row / scales).round_().clamp_(-127, 127)
        whole[index] = rounded
        return rounded * scales

    _pass_errors_on(weight, gram, lambda _: quantize)
    return whole.numpy(), scales.numpy()


class Int4(NamedTuple):
    """Weights in asymmetric 4-bit blocks along the inputs, as MatMulNBits has them.

    Attributes:
        packed: Two values a byte, the even input's low, shape (outputs, blocks, block / 2).
        scales: Shape (outputs, blocks).
        zero_points: Likewise packed, shape (outputs, blocks / 2) rounded up.
    """

    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8]

    def restored(self) -> Tensor:
        """The weights that these stand for, float32, shape (inputs, outputs)."""
        values = torch.from_numpy(_unpacked(self.packed)).float()
        zeros = torch.from_numpy(_unpacked(self.zero_points)[:, : values.shape[1]]).float()
        scales = torch.from_numpy(self.scales)
        return ((values - zeros[..., None]) * scales[..., None]).flatten(1).T


def int4_blocks(weight: NDArray[np.float32], gram: Tensor) -> Int4:
    """Whole numbers of 4 bits with a scale and a zero point a block, by GPTQ.

    Args:
        weight: Shape (inputs, outputs); inputs a multiple of the block.
        gram: As `int8_columns` takes it.

    Raises:
        ExportError: The inputs are no multiple of the block.
    """
    inputs, outputs = weight.shape
    if inputs % INT4_BLOCK:
        raise ExportError(f"int4 needs widths that are multiples of {INT4_BLOCK}, not {inputs}")
    whole = torch.empty((inputs, outputs), dtype=torch.uint8)
    all_scales: list[Tensor] = []
    all_zeros: list[Tensor] = []

    def begin(block: Tensor) -> Callable[[int, Tensor], Tensor]:
        scales, zeros = _best_range(block)
        all_scales.append(scales)
        all_zeros.append(zeros)

        def quantize(index: int, row: Tensor) -> Tensor:
            rounded = (row / scales + zeros).round_().clamp_(0, 15)
            whole[index] = rounded
            return (rounded - zeros) * scales

        return quantize

    _pass_errors_on(weight, gram, begin)
    values = whole.T.reshape(outputs, -1, INT4_BLOCK).numpy()
    packed = values[..., 0::2] | (values[..., 1::2] << np.uint8(4))
    points = torch.stack(all_zeros, dim=1).to(torch.uint8).numpy()
    if points.shape[1] % 2:
        points = np.pad(points, ((0, 0), (0, 1)))
    packed_points = points[:, 0::2] | (points[:, 1::2] << np.uint8(4))
    return Int4(packed, torch.stack(all_scales, dim=1).numpy(), packed_points)


def _unpacked(nibbles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Both halves of each byte, the low one first, along the last axis."""
    return np.stack([nibbles & 15, nibbles >> 4], axis=-1).reshape(*nibbles.shape[:-1], -1)


def _int8_scales(matrix: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    largest = np.abs(matrix).max(axis=axis, keepdims=True)
    return np.maximum(largest / 127, 1e-30).astype(np.float32)


def _pass_errors_on(
    weight: NDArray[np.float32],
    gram: Tensor,
    begin: Callable[[Tensor], Callable[[int, Tensor], Tensor]],
) -> None:
    """Quantise input by input, and let the inputs that are left make up for each error.

    GPTQ (Frantar et al., 2023), algorithm 1: with U the Cholesky factor of the inverse of the
    inputs' damped gram matrix, the error of row i over U[i, i], times U[i, j], is taken off row j.

    Args:
        weight: Shape (inputs, outputs).
        gram: Shape (inputs, inputs).
        begin: Called with each block of rows as they have become; gives what is then called with
            index and values of each of its rows, and gives the quantised values.

    Raises:
        ExportError: The gram matrix is not finite.
    """
    factor = _inverse_factor(gram)
    left = torch.tensor(weight)
    for first in range(0, len(left), _BLOCK):
        last = min(first + _BLOCK, len(left))
        block = left[first:last]
        quantize = begin(block)
        errors = torch.empty_like(block)
        for index in range(first, last):
            row = block[index - first]
            errors[index - first] = (row - quantize(index, row)) / factor[index, index]
            following = factor[index, index + 1 : last]
            block[index + 1 - first :].addr_(following, errors[index - first], alpha=-1)
        left[last:].addmm_(factor[first:last, last:].T, errors, alpha=-1)


def _inverse_factor(gram: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped matrix."""
    damping = _DAMPING * float(gram.diagonal().mean()) or 1.0
    damped = gram + damping * torch.eye(len(gram))
    if not damped.isfinite().all():
        raise ExportError("the activations on the calibration text are not finite")
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _best_range(block: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point of every column: the shrunken range with the least squared error."""
    low = block.amin(dim=0).clamp(max=0)
    high = block.amax(dim=0).clamp(min=0)
    best_error = torch.full_like(low, torch.inf)
    best_scale, best_zero = torch.ones_like(low), torch.zeros_like(low)
    for shrink in _SHRINKS.tolist():
        scale = ((high - low) * shrink / 15).clamp(min=1e-30)
        zero = (-low * shrink / scale).round().clamp(0, 15)
        restored = ((block / scale + zero).round().clamp(0, 15) - zero) * scale
        error = (restored - block).square().sum(dim=0)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
        best_zero = torch.where(better, zero, best_zero)
    return best_scale, best_zero
