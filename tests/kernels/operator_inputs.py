"""Random inputs of the operators, and what an operator and its body give for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2ja_onnx.bundle.demo import demo_bundle
from tests.kernels.one_operator import OneOperator

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.kernels.one_operator import Arrays

EPSILON = {"epsilon": 1e-5}
DEMO_SHAPE = (256, 8000)  # of the demo model's head, whose body holds its width and vocabulary
INT8 = ["LinearResidual", "NormLinear", "NormLinearGelu"]
INT4 = [f"{name}Int4" for name in INT8]
A16 = [f"{name}A16" for name in INT8]


def floats(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return random.standard_normal(shape).astype(np.float32)


def whole(random: np.random.Generator, *shape: int) -> NDArray[np.int8]:
    return random.integers(-128, 128, shape, dtype=np.int8)


def linear(name: str, rows: int, inputs: int, outputs: int) -> Arrays:
    """Rows and weights for one of the linear operators."""
    random = np.random.default_rng(inputs)
    arrays: list[NDArray[Any]] = [floats(random, rows, 1, inputs)]
    if name.startswith("Norm"):
        arrays += [1 + floats(random, inputs) / 8, floats(random, inputs) / 8]
    if name.endswith("Int4"):  # weights, scales and zero points of blocks of 32
        blocks = inputs // 32
        arrays += [
            random.integers(0, 256, (outputs, blocks, 16), dtype=np.uint8),
            np.abs(floats(random, outputs, blocks)) / 10,
            random.integers(0, 256, (outputs, (blocks + 1) // 2), dtype=np.uint8),
        ]
    else:
        matrix = (outputs, inputs) if name == "NormHead" else (inputs, outputs)
        arrays += [whole(random, *matrix), np.abs(floats(random, outputs)) / 100]
    if name != "NormHead":
        arrays.append(floats(random, outputs))
    if name.startswith("LinearResidual"):
        arrays.append(floats(random, rows, 1, outputs))
    return arrays


def attributes(name: str, inputs: int, outputs: int) -> dict[str, Any]:
    """What a call of `name` states beside its inputs."""
    given = EPSILON if name.startswith("Norm") else {}
    return given | {"K": inputs, "N": outputs} if name.endswith("Int4") else given


def attention(
    heads: int, size: int, capacity: int, new: int, lengths: list[int], cache_bytes: int = 1
) -> Arrays:
    """Inputs of an attention after which the rows have so many positions."""
    random = np.random.default_rng(capacity)
    rows = len(lengths)
    caches = [whole(random, rows, heads, capacity, size * cache_bytes) for _ in range(2)]
    total = np.array(max([new, *lengths]), dtype=np.int32)
    scales = [np.array([scale], dtype=np.float32) for scale in (0.02, 0.03)]
    seqlens = np.array(lengths, dtype=np.int32) - 1
    return [floats(random, rows, new, 3 * heads * size), *caches, seqlens, total, *scales]


def embedding(rows: int, new: int, width: int) -> Arrays:
    random = np.random.default_rng(width)
    ids, places = random.integers(0, 50, (rows, new)), random.integers(0, 20, (rows, new))
    return [ids, places, whole(random, 50, width), floats(random, 50), floats(random, 20, width)]


def both(
    bundle: Path, name: str, inputs: Arrays, given: dict[str, Any], **options: Any
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """What the native operator gives, and what its body does."""
    native = OneOperator(bundle, name, inputs, given, native=True, **options)
    standard = OneOperator(bundle, name, inputs, given, native=False, **options)
    return native(inputs), standard(inputs)


def home(quantized: dict[str, Path], name: str) -> Path:
    """A bundle whose graph calls `name`."""
    if name == "NormHead":
        return demo_bundle()
    if name.endswith("Int4"):
        return quantized["int4"]
    return quantized["16"] if name.endswith("16") else quantized["int8"]
