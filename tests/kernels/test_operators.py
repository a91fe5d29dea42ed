"""Each native operator against its standard body, and against itself in other company."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gpt2ja_onnx.bundle.demo import demo_bundle
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.device.cpu.session import CpuSession
from tests.conftest import VOCABULARY
from tests.kernels.one_operator import OneOperator
from tests.tolerances import OPERATORS, assert_near

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from gpt2ja_kernels import Kernels
    from tests.kernels.one_operator import Arrays

pytestmark = pytest.mark.usefixtures("native")
EPSILON = {"epsilon": 1e-5}
DEMO_SHAPE = (256, 8000)  # of the demo model's head, whose body holds its width and vocabulary


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


def both(
    bundle: Path, name: str, inputs: Arrays, given: dict[str, Any], **options: int
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """What the native operator gives, and what its body does."""
    native = OneOperator(bundle, name, inputs, given, native=True, **options)
    standard = OneOperator(bundle, name, inputs, given, native=False, **options)
    return native(inputs), standard(inputs)


# --- products ---


INT8 = ["LinearResidual", "NormLinear", "NormLinearGelu"]
INT4 = [f"{name}Int4" for name in INT8]
ODD = [(2, 1, 1), (7, 33, 65), (0, 8, 8)]  # rows, inputs, outputs
BLOCKS = [(1, 64, 192), (40, 256, 70), (120, 96, 768), (1, 1280, 40), (3, 32, 1), (0, 64, 8)]


def home(quantized: dict[str, Path], name: str) -> Path:
    """A bundle whose graph calls `name`."""
    if name == "NormHead":
        return demo_bundle()
    return quantized["int4" if name.endswith("Int4") else "int8"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, shape) for name in INT8 for shape in ODD + BLOCKS),
        *((name, shape) for name in INT4 for shape in BLOCKS),
        *(("NormHead", (rows, *DEMO_SHAPE)) for rows in (1, 5, 33)),
    ],
)
def test_linear(quantized: dict[str, Path], name: str, shape: tuple[int, int, int]) -> None:
    arrays, bundle = linear(name, *shape), home(quantized, name)
    (found,), (expected,) = both(bundle, name, arrays, attributes(name, *shape[1:]))
    assert found.shape == (shape[0], 1, shape[2])
    assert_near(found, expected, OPERATORS[name])


@pytest.mark.parametrize("name", [*INT8, *INT4, "NormHead"])
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


@pytest.mark.parametrize("name", [*INT8, *INT4])
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


@pytest.mark.parametrize("name", ["LinearResidual", "LinearResidualInt4"])
def test_a_row_of_zeros(quantized: dict[str, Path], name: str) -> None:
    arrays = linear(name, 3, 96, 70)
    arrays[0][1] = 0
    operator = OneOperator(
        home(quantized, name), name, arrays, attributes(name, 96, 70), native=True
    )
    bias, residual = arrays[-2:]
    np.testing.assert_array_equal(operator(arrays)[0][1, 0], bias + residual[1, 0])


# --- attention ---


def attention(heads: int, size: int, capacity: int, new: int, lengths: list[int]) -> Arrays:
    """Inputs of an attention after which the rows have so many positions."""
    random = np.random.default_rng(capacity)
    rows = len(lengths)
    caches = [whole(random, rows, heads, capacity, size) for _ in range(2)]
    total = np.array(max([new, *lengths]), dtype=np.int32)
    scales = [np.array([scale], dtype=np.float32) for scale in (0.02, 0.03)]
    seqlens = np.array(lengths, dtype=np.int32) - 1
    return [floats(random, rows, new, 3 * heads * size), *caches, seqlens, total, *scales]


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
def test_attention(
    bundles: dict[str, Path],
    heads: int,
    size: int,
    capacity: int,
    new: int,
    lengths: list[int],
    threads: int,
) -> None:
    inputs = attention(heads, size, capacity, new, lengths)
    shape = {"num_heads": heads, "head_size": size}
    found, expected = both(
        bundles["int8"], "Attention", inputs, shape, threads=threads, heads=heads
    )
    for row, length in enumerate(lengths):
        first = max(lengths) == new  # nothing is cached: padding stands on the right
        used = min(new, length) if first else new
        assert_near(found[0][row, :used], expected[0][row, :used], OPERATORS["Attention"])
        for part in (1, 2):  # keys and values, those that were cached before included
            np.testing.assert_array_equal(
                found[part][row, :, :length], expected[part][row, :, :length]
            )


def test_attention_changes_no_other_position(bundles: dict[str, Path]) -> None:
    inputs = attention(2, 32, 24, 1, [5, 24])
    operator = OneOperator(
        bundles["int8"], "Attention", inputs, {"num_heads": 2, "head_size": 32}, native=True
    )
    for given, found in zip(inputs[1:3], operator(inputs)[1:], strict=True):
        for row, length in enumerate((5, 24)):
            rest = np.arange(24) != length - 1
            np.testing.assert_array_equal(found[row][:, rest], given[row][:, rest])


def test_a_query_that_is_not_finite_stays_in_its_token(bundles: dict[str, Path]) -> None:
    inputs = attention(2, 32, 24, 6, [6, 6])
    shape = {"num_heads": 2, "head_size": 32}
    operator = OneOperator(bundles["int8"], "Attention", inputs, shape, native=True)
    clean = operator(inputs)[0]
    inputs[0][1, 2, 7] = np.nan  # of the query of head 0
    found = operator(inputs)[0]
    assert np.isnan(found[1, 2, :32]).all()
    found[1, 2, :32] = clean[1, 2, :32]
    np.testing.assert_array_equal(found, clean)


# --- the others ---


@pytest.mark.parametrize("levels", [2, 40, 0])
@pytest.mark.parametrize("rows", [1, 6])
def test_candidates(bundles: dict[str, Path], levels: int, rows: int) -> None:
    for bundle, vocabulary in ((bundles["int8"], VOCABULARY), (demo_bundle(), DEMO_SHAPE[1])):
        logits = floats(np.random.default_rng(levels), rows, 2, vocabulary)
        if levels:  # few values, so that most scores are tied with others
            logits = np.rint(logits * levels / 4).astype(np.float32)
        found, expected = both(bundle, "Candidates", [logits], {"count": 64})
        for ours, standard in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, standard)


def test_candidates_of_no_rows(bundles: dict[str, Path]) -> None:
    logits = np.empty((0, 2, 100), dtype=np.float32)
    operator = OneOperator(bundles["int8"], "Candidates", [logits], {"count": 64}, native=True)
    assert [output.shape for output in operator([logits])] == [(0, 2, 64)] * 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_reach_the_candidates(value: float) -> None:
    logits = np.full((1, 1, DEMO_SHAPE[1]), value, dtype=np.float32)
    operator = OneOperator(demo_bundle(), "Candidates", [logits], {"count": 64}, native=True)
    scores, ids = operator([logits])
    assert not np.isfinite(scores).any()
    assert len(set(ids.ravel().tolist()) & set(range(DEMO_SHAPE[1]))) == 64


def embedding(rows: int, new: int, width: int) -> Arrays:
    random = np.random.default_rng(width)
    ids, places = random.integers(0, 50, (rows, new)), random.integers(0, 20, (rows, new))
    return [ids, places, whole(random, 50, width), floats(random, 50), floats(random, 20, width)]


@pytest.mark.parametrize(("rows", "new", "width"), [(1, 1, 768), (5, 7, 33), (0, 1, 8), (64, 1, 1)])
def test_embed(bundles: dict[str, Path], rows: int, new: int, width: int) -> None:
    (found,), (expected,) = both(bundles["int8"], "Embed", embedding(rows, new, width), {})
    np.testing.assert_array_equal(found, expected)


# --- what is refused ---


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
    bundles: dict[str, Path], index: int, place: tuple[int, int], value: int, message: str
) -> None:
    inputs = embedding(2, 3, 16)
    operator = OneOperator(bundles["int8"], "Embed", inputs, native=True)
    inputs[index][place] = value
    refuses(operator, inputs, message)


@pytest.mark.parametrize(
    ("new", "length"), [(1, 25), (1, 0), (1, -5), (1, 2**31 - 1), (6, 25), (6, 5)]
)
def test_lengths_outside_of_the_cache(bundles: dict[str, Path], new: int, length: int) -> None:
    inputs = attention(2, 32, 24, new, [new + 2, new + 2])
    operator = OneOperator(
        bundles["int8"], "Attention", inputs, {"num_heads": 2, "head_size": 32}, native=True
    )
    operator(inputs)
    inputs[3][1] = np.int64(length - 1)
    refuses(operator, inputs, "a row's length lies outside of its cache")


def test_shapes_that_do_not_fit_each_other(bundles: dict[str, Path]) -> None:
    bundle, shape = bundles["int8"], {"num_heads": 2, "head_size": 32}
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
def test_heads_of_a_size_that_no_operator_takes(bundles: dict[str, Path], size: int) -> None:
    inputs = attention(2, size, 8, 1, [1])
    with pytest.raises(Exception, match="not a multiple of 16 up to 256"):
        OneOperator(
            bundles["int8"], "Attention", inputs, {"num_heads": 2, "head_size": size}, native=True
        )


# --- all of them in a model ---

IDS = np.random.default_rng(5).integers(6, VOCABULARY, 97)


def logits(
    bundle: Path, kernels: Kernels, threads: int, cuts: list[int], copies: int = 1
) -> NDArray[np.float32]:
    """Scores after every token of a text that is read in pieces, by the last of several rows."""
    session = CpuSession(bundle, read_manifest(bundle), threads=threads)
    assert session.kernels == kernels.instruction_set
    cache = session.new_cache()
    cache.reserve(copies, len(IDS), 0)
    pieces = []
    for begin, end in zip([0, *cuts], [*cuts, len(IDS)], strict=True):
        plan = cache.plan(0, copies, end - begin, end - begin)
        plan.input_ids[...] = (IDS[begin:end] + 7 * np.arange(copies)[::-1, None]) % VOCABULARY
        plan.position_ids[...] = np.arange(begin, end)
        plan.lengths[...] = end
        plan.logit_positions[...] = np.arange(end - begin)
        plan.run()
        pieces.append(plan.all_logits()[-1])
    return np.concatenate(pieces)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_text_at_once_in_pieces_and_token_by_token(
    quantized: dict[str, Path], native: Kernels, precision: str, threads: int
) -> None:
    bundle = quantized[precision]
    expected = logits(bundle, native, 1, [])
    assert np.isfinite(expected).all()
    for cuts in ([], [1], [96], [13, 14, 50], list(range(1, len(IDS)))):
        np.testing.assert_array_equal(logits(bundle, native, threads, cuts), expected)
    steps = list(range(1, len(IDS)))
    for cuts in ([], steps):
        np.testing.assert_array_equal(logits(bundle, native, threads, cuts, copies=5), expected)
