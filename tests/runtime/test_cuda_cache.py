"""Rows of a cache on a device move exactly as those in main memory do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.device.cpu.cache import CpuCache
from gpt2ja_onnx.device.cuda import block_mover
from gpt2ja_onnx.device.cuda.cache import CudaCache, bucket
from gpt2ja_onnx.errors import OutOfMemoryError
from tests.fake_cuda import TestedSession
from tests.fakes import FakeSession

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module", params=["fake", pytest.param("gpu", marks=pytest.mark.gpu)])
def session(request: pytest.FixtureRequest, cuda_bundle: Path) -> TestedSession:
    manifest = read_manifest(cuda_bundle)
    return TestedSession(cuda_bundle, manifest, real=request.param == "gpu")


def read(cache: CudaCache) -> NDArray[np.float16]:
    """What the device has, in the shape of `contents`."""
    words: NDArray[np.int64] = cache.storage.numpy()
    shape = cache._shape
    values = words.view(np.float16)
    return values.reshape(
        2 * shape.layers, cache.rows, shape.heads, cache.capacity, shape.head_size
    )


def write(cache: CudaCache, values: NDArray[np.float16]) -> None:
    cache.storage.update_inplace(np.ascontiguousarray(values).reshape(-1).view(np.int64))


def twin_of(session: TestedSession) -> CpuCache:
    """A cache of the same shape in main memory."""
    planner = FakeSession()
    planner.shape = session.shape
    return CpuCache(planner)


def contents(twin: CpuCache) -> NDArray[np.generic]:
    """Shape (2 × layers, rows, heads, capacity, head size)."""
    return np.stack(twin.parts)


def put(twin: CpuCache, values: NDArray[np.float16]) -> None:
    for part, value in zip(twin.parts, values, strict=True):
        part[:] = value[: twin.rows]


def fill(cache: CudaCache, twin: CpuCache, seed: int) -> None:
    """Give both caches the same contents."""
    values = np.random.default_rng(seed).standard_normal(read(cache).shape).astype(np.float16)
    write(cache, values)
    put(twin, values)


def test_buckets() -> None:
    assert [bucket(rows) for rows in (1, 2, 3, 4, 5, 8, 9, 33, 64, 65)] == [
        1, 2, 4, 4, 8, 8, 16, 64, 64, 128,
    ]  # fmt: skip


def test_any_moves_and_growth_give_what_main_memory_gives(session: TestedSession) -> None:
    random = np.random.default_rng(5)
    for trial in range(8):
        cache, twin = session.new_cache(), twin_of(session)
        for each in (cache, twin):
            each.reserve(4, 60, 0)
        assert not read(cache).any()  # what was never written is a number
        fill(cache, twin, trial)
        for _ in range(6):
            rows, length = twin.rows, int(random.integers(1, twin.capacity + 1))
            match random.integers(3):
                case 0:
                    source, target = (int(row) for row in random.integers(rows, size=2))
                    for each in (cache, twin):
                        each.copy(source, target, length)
                case 1:
                    count = int(random.integers(1, rows + 1))
                    targets = random.permutation(rows)[:count].tolist()
                    sources = random.integers(rows, size=count).tolist()
                    for each in (cache, twin):
                        each.copy_rows(sources, targets, length, 0)
                case _:
                    wanted = min(rows * 2, 8), min(length + 64, session.shape.context)
                    for each in (cache, twin):
                        each.reserve(*wanted, rows)
                    assert (cache.rows, cache.capacity) == (twin.rows, twin.capacity)
            # Whole blocks move, so behind `length` the device may have more of the source.
            kept = read(cache)[:, : twin.rows]
            part = kept[:, :, :, : min(length, 60)]
            np.testing.assert_array_equal(part, contents(twin)[:, :, :, : min(length, 60)])
            put(twin, kept)


def test_rows_change_places_even_when_they_are_moved_in_several_calls(
    session: TestedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_mover, "_MOVED_AT_ONCE", 7)
    cache, twin = session.new_cache(), twin_of(session)
    for each in (cache, twin):
        each.reserve(4, 128, 0)
    fill(cache, twin, 0)
    calls = len(session.mover.ran)
    for each in (cache, twin):
        each.copy_rows([1, 2, 3, 0], [0, 1, 2, 3], 128, 0)
    assert len(session.mover.ran) > calls + 1
    np.testing.assert_array_equal(read(cache), contents(twin))


def test_only_the_blocks_of_the_positions_are_copied(session: TestedSession) -> None:
    cache, twin = session.new_cache(), twin_of(session)
    for each in (cache, twin):
        each.reserve(2, 128, 0)
    fill(cache, twin, 1)
    before = read(cache).copy()
    cache.copy(0, 1, 10)
    after = read(cache)
    np.testing.assert_array_equal(after[:, 1, :, :10], before[:, 0, :, :10])
    np.testing.assert_array_equal(after[:, 1, :, 64:], before[:, 1, :, 64:])
    np.testing.assert_array_equal(after[:, 0], before[:, 0])
    cache.copy_rows([0], [1], 100, 70)
    np.testing.assert_array_equal(read(cache)[:, 1, :, :64], after[:, 1, :, :64])
    np.testing.assert_array_equal(read(cache)[:, 1, :, 70:100], before[:, 0, :, 70:100])
    cache.copy_rows([0], [1], 64, 64)


def test_the_budget_counts_whole_buckets(session: TestedSession) -> None:
    cache = session.new_cache()
    cache.reserve(5, 70, 0)
    assert cache.rows == 8
    assert cache.bytes_needed(5, 70) == read(cache).nbytes


def test_under_a_budget_positions_go_back_where_rows_are_needed(session: TestedSession) -> None:
    cache, twin = session.new_cache(), twin_of(session)
    for each in (cache, twin):
        each.reserve(2, 128, 0)
    fill(cache, twin, 3)
    budget = cache.bytes_needed(4, 64)
    for each in (cache, twin):
        each.reserve(3, 60, 2, budget)
        assert each.capacity == 64
    assert read(cache).nbytes == budget
    np.testing.assert_array_equal(read(cache)[:, :2], contents(twin)[:, :2])


def test_without_room_the_cache_stays_as_it_was(
    session: TestedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, twin = session.new_cache(), twin_of(session)
    for each in (cache, twin):
        each.reserve(2, 64, 0)
    fill(cache, twin, 2)

    def full(words: int) -> object:
        raise OutOfMemoryError("the device is out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(session.memory, "empty", full)
        with pytest.raises(OutOfMemoryError):
            cache.reserve(4, 64, 2)
    np.testing.assert_array_equal(read(cache), contents(twin))
    cache.reserve(4, 64, 2)
    assert cache.rows == 4
    np.testing.assert_array_equal(read(cache)[:, :2], contents(twin))


def test_more_than_the_kernels_can_count_is_out_of_memory(session: TestedSession) -> None:
    cache = session.new_cache()
    with pytest.raises(OutOfMemoryError, match="at most 15 GiB"):
        cache.reserve(1 << 22, 128, 0)
