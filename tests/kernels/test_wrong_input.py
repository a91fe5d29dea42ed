"""What does not fit is an error of onnxruntime, before anything is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.kernels.one_operator import OneOperator
from tests.kernels.operator_inputs import attention, attributes, embedding, floats, home, linear

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kernels.one_operator import Arrays

pytestmark = pytest.mark.usefixtures("native")


def refuses(operator: OneOperator, inputs: Arrays, message: str) -> None:
    with pytest.raises(Exception, match=message):  # onnxruntime's errors derive from nothing better
        operator(inputs)


@pytest.mark.parametrize(
    ("index", "place", "value", "message"),
    [
        (0, (1, 2), 50, "a token id is out of its range"),
        (0, (1, 2), -1, "a token id is out of its range"),
        (1, (0, 0), 20, "a position is out of its range"),
        (1, (0, 0), -(2**40), "a position is out of its range"),
    ],
)
def test_ids_and_positions_out_of_range(
    quantized: dict[str, Path], index: int, place: tuple[int, int], value: int, message: str
) -> None:
    inputs = embedding(2, 3, 16)
    operator = OneOperator(quantized["int8"], "Embed", inputs, native=True)
    inputs[index][place] = value
    refuses(operator, inputs, message)


@pytest.mark.parametrize(
    ("new", "length"), [(1, 25), (1, 0), (1, -5), (1, 2**31 - 1), (6, 25), (6, 5)]
)
def test_lengths_outside_of_the_cache(quantized: dict[str, Path], new: int, length: int) -> None:
    inputs = attention(2, 32, 24, new, [new + 2, new + 2])
    operator = OneOperator(
        quantized["int8"], "Attention", inputs, {"num_heads": 2, "head_size": 32}, native=True
    )
    operator(inputs)
    inputs[3][1] = np.int64(length - 1)
    refuses(operator, inputs, "a row's length lies outside of its cache")


def test_shapes_that_do_not_fit_each_other(quantized: dict[str, Path]) -> None:
    bundle, shape = quantized["int8"], {"num_heads": 2, "head_size": 32}
    rows = attention(2, 32, 24, 1, [3, 3])
    operator = OneOperator(bundle, "Attention", rows, shape, native=True)
    packed, keys, values, lengths, total = rows[:5]
    for wrong, message in (
        ([packed[:, :, 3:], keys, values, lengths, total], r"3 × width"),
        ([packed[:1], keys, values, lengths, total], "the cache is not of shape"),
        ([packed, keys[..., :16], values, lengths, total], "the cache is not of shape"),
        ([packed, keys, values[:, :, :20], lengths, total], "the cache is not of shape"),
        ([packed, keys[:, :1], values[:, :1], lengths, total], "the cache is not of shape"),
        ([packed, keys, values, lengths[:1], total], "not a length for each row"),
    ):
        refuses(operator, [np.ascontiguousarray(array) for array in wrong], message)
    product = linear("LinearResidual", 3, 40, 70)
    operator = OneOperator(bundle, "LinearResidual", product, native=True)
    refuses(operator, [product[0][..., :39].copy(), *product[1:]], "not as wide as the matrix")
    refuses(operator, [*product[:-1], product[-1][:2]], "the residual's shape")
    tokens = embedding(2, 3, 16)
    operator = OneOperator(bundle, "Embed", tokens, native=True)
    refuses(operator, [tokens[0], tokens[1][:1], *tokens[2:]], "not a position for each token")
    scores = floats(np.random.default_rng(), 1, 1, 63)
    operator = OneOperator(bundle, "Candidates", [scores], {"count": 64}, native=True)
    refuses(operator, [scores], "fewer scores than candidates")


@pytest.mark.parametrize(
    ("name", "index", "size", "message"),
    [
        ("NormLinear", 1, 95, "the weights' sizes do not fit"),
        ("NormLinear", 4, 71, "the weights' sizes do not fit"),
        ("NormLinear", 5, 69, "the weights' sizes do not fit"),
        ("LinearResidual", 2, 1, "the weights' sizes do not fit"),
        ("NormLinearInt4", 4, 70, "the weights' sizes do not fit"),
        ("NormLinearInt4", 6, 69, "the weights' sizes do not fit"),
    ],
)
def test_weights_that_do_not_fit_each_other(
    quantized: dict[str, Path], name: str, index: int, size: int, message: str
) -> None:
    arrays = [*linear(name, 1, 96, 70)]
    arrays[index] = np.ones(size, dtype=np.float32)
    with pytest.raises(Exception, match=message):
        OneOperator(home(quantized, name), name, arrays, attributes(name, 96, 70), native=True)


@pytest.mark.parametrize("size", [8, 24, 272])
def test_heads_of_a_size_that_no_operator_takes(quantized: dict[str, Path], size: int) -> None:
    inputs = attention(2, size, 8, 1, [1])
    with pytest.raises(Exception, match="not a multiple of 16 up to 256"):
        OneOperator(
            quantized["int8"], "Attention", inputs, {"num_heads": 2, "head_size": size}, native=True
        )
