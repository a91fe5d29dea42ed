"""Products with what stands around them: the same as the standard bodies, in any company."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.kernels.one_operator import OneOperator
from tests.kernels.operator_inputs import (
    A16,
    DEMO_SHAPE,
    INT4,
    INT8,
    attributes,
    both,
    home,
    linear,
)
from tests.tolerances import OPERATORS, assert_near

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("native")
ODD = [(2, 1, 1), (7, 33, 65), (0, 8, 8)]  # rows, inputs, outputs
BLOCKS = [(1, 64, 192), (40, 256, 70), (120, 96, 768), (1, 1280, 40), (3, 32, 1), (0, 64, 8)]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, shape) for name in INT8 + A16 for shape in ODD + BLOCKS),
        *((name, shape) for name in INT4 for shape in BLOCKS),
        *(("NormHead", (rows, *DEMO_SHAPE)) for rows in (1, 5, 33)),
    ],
)
def test_linear(quantized: dict[str, Path], name: str, shape: tuple[int, int, int]) -> None:
    arrays, bundle = linear(name, *shape), home(quantized, name)
    (found,), (expected,) = both(bundle, name, arrays, attributes(name, *shape[1:]))
    assert found.shape == (shape[0], 1, shape[2])
    assert_near(found, expected, OPERATORS[name])


@pytest.mark.parametrize("name", [*INT8, *A16, *INT4, "NormHead"])
def test_a_row_alone_among_others_and_on_several_threads(
    quantized: dict[str, Path], name: str
) -> None:
    shape = DEMO_SHAPE if name == "NormHead" else (160 if name in INT4 else 130, 199)
    bundle, given = home(quantized, name), attributes(name, *shape)
    arrays = linear(name, 101, *shape)
    one, four = (
        OneOperator(bundle, name, arrays, given, threads=threads, native=True) for threads in (1, 4)
    )
    (expected,) = one(arrays)
    np.testing.assert_array_equal(four(arrays)[0], expected)
    for rows in (slice(0, 1), slice(100, 101), slice(3, 12)):
        some = [arrays[0][rows], *arrays[1:]]
        if name.startswith("LinearResidual"):
            some[-1] = arrays[-1][rows]
        for operator in (one, four):
            np.testing.assert_array_equal(operator(some)[0], expected[rows])


@pytest.mark.parametrize("name", [*INT8, *A16, *INT4])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(
    quantized: dict[str, Path], name: str, value: float
) -> None:
    arrays, given = linear(name, 9, 96, 70), attributes(name, 96, 70)
    operator = OneOperator(home(quantized, name), name, arrays, given, native=True)
    (clean,) = operator(arrays)
    arrays[0][4, 0, 17] = value
    (found,) = operator(arrays)
    assert not np.isfinite(found[4]).any()
    others = np.arange(9) != 4
    np.testing.assert_array_equal(found[others], clean[others])


@pytest.mark.parametrize("name", ["LinearResidual", "LinearResidualA16", "LinearResidualInt4"])
def test_a_row_of_zeros(quantized: dict[str, Path], name: str) -> None:
    arrays = linear(name, 3, 96, 70)
    arrays[0][1] = 0
    operator = OneOperator(
        home(quantized, name), name, arrays, attributes(name, 96, 70), native=True
    )
    bias, residual = arrays[-2:]
    np.testing.assert_array_equal(operator(arrays)[0][1, 0], bias + residual[1, 0])
