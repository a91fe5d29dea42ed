"""Attention over the int8 cache: as the standard body, and nothing but its own positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.kernels.one_operator import OneOperator
from tests.kernels.operator_inputs import attention, both, home
from tests.tolerances import OPERATORS, assert_near

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("native")


@pytest.mark.parametrize(
    ("heads", "size", "capacity", "new", "lengths"),
    [
        (4, 64, 64, 1, [1, 2, 17, 64]),
        (1, 16, 1024, 1, [1024, 257, 256]),
        (3, 256, 40, 1, [40]),
        (12, 64, 64, 30, [30, 1, 29]),
        (2, 80, 600, 517, [517, 33]),
        (2, 32, 64, 20, [50]),  # a piece behind a prefix
        (20, 64, 8, 1, [3] * 17),
    ],
)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("name", "cache_bytes"), [("Attention", 1), ("AttentionKV16", 2)])
def test_attention(
    quantized: dict[str, Path],
    name: str,
    cache_bytes: int,
    heads: int,
    size: int,
    capacity: int,
    new: int,
    lengths: list[int],
    threads: int,
) -> None:
    inputs = attention(heads, size, capacity, new, lengths, cache_bytes)
    shape = {"num_heads": heads, "head_size": size}
    bundle = home(quantized, name)
    found, expected = both(bundle, name, inputs, shape, threads=threads, heads=(heads, size))
    for row, length in enumerate(lengths):
        first = max(lengths) == new  # nothing is cached: padding stands on the right
        used = min(new, length) if first else new
        assert_near(found[0][row, :used], expected[0][row, :used], OPERATORS[name])
        for part in (1, 2):  # keys and values, those that were cached before included
            np.testing.assert_array_equal(
                found[part][row, :, :length], expected[part][row, :, :length]
            )


def test_attention_changes_no_other_position(quantized: dict[str, Path]) -> None:
    inputs = attention(2, 32, 24, 1, [5, 24])
    operator = OneOperator(
        quantized["int8"], "Attention", inputs, {"num_heads": 2, "head_size": 32}, native=True
    )
    for given, found in zip(inputs[1:3], operator(inputs)[1:], strict=True):
        for row, length in enumerate((5, 24)):
            rest = np.arange(24) != length - 1
            np.testing.assert_array_equal(found[row][:, rest], given[row][:, rest])


def test_a_query_that_is_not_finite_stays_in_its_token(quantized: dict[str, Path]) -> None:
    inputs = attention(2, 32, 24, 6, [6, 6])
    shape = {"num_heads": 2, "head_size": 32}
    operator = OneOperator(quantized["int8"], "Attention", inputs, shape, native=True)
    clean = operator(inputs)[0]
    inputs[0][1, 2, 7] = np.nan  # of the query of head 0
    found = operator(inputs)[0]
    assert np.isnan(found[1, 2, :32]).all()
    found[1, 2, :32] = clean[1, 2, :32]
    np.testing.assert_array_equal(found, clean)
