"""What is kept of earlier prompts: exact, bounded, and found again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2ja_onnx import GPT2Ja, SettingError
from gpt2ja_onnx.device.base import RowStore
from gpt2ja_onnx.engine.prefix_cache import BLOCK, PrefixCache

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from gpt2ja_onnx.device.base import SavedPositions

BYTES = BLOCK * 8  # of a block of this store


class Tokens:
    """A store whose rows hold the tokens themselves, so that a wrong block shows."""

    def __init__(self) -> None:
        self.rows = np.zeros((2, 8 * BLOCK), dtype=np.int64)

    def save(self, row: int, start: int, stop: int) -> NDArray[np.int64]:
        return self.rows[row, start:stop].copy()

    def restore(self, saved: SavedPositions, row: int, start: int) -> None:
        assert isinstance(saved, np.ndarray)
        self.rows[row, start : start + len(saved)] = saved


# Prompts of few different blocks, so that they begin alike.
prompts = st.tuples(st.lists(st.integers(0, 2), max_size=6), st.integers(0, BLOCK - 1)).map(
    lambda drawn: np.array([*np.repeat(drawn[0], BLOCK), *[7] * drawn[1]], dtype=np.int64)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(prompts, max_size=25), st.integers(0, 12))
def test_what_is_found_was_computed_from_the_same_tokens(
    given_prompts: list[NDArray[np.int64]], blocks: int
) -> None:
    store = Tokens()
    assert isinstance(store, RowStore)
    cache = PrefixCache(store, blocks * BYTES)
    for prompt in given_prompts:
        found = cache.find(prompt)
        assert found % BLOCK == 0
        store.rows[1] = -1
        cache.restore(prompt[:found], 1)
        assert (store.rows[1, :found] == prompt[:found]).all()
        assert (store.rows[1, found:] == -1).all()
        store.rows[0, : len(prompt)] = prompt
        cache.keep(prompt, 0)
        assert cache.nbytes == BYTES * len(cache) <= blocks * BYTES
        whole = len(prompt) // BLOCK
        assert cache.find(prompt) == BLOCK * min(whole, blocks)  # the last one is kept at least
    cache.clear()
    assert cache.nbytes == len(cache) == 0


def test_the_least_recently_used_goes_first() -> None:
    cache = PrefixCache(Tokens(), 4 * BYTES)
    first, second, third = (np.repeat([i, i], BLOCK) for i in range(3))
    for prompt in (first, second):
        cache.keep(prompt, 0)
    cache.restore(first, 0)
    cache.keep(third, 0)
    assert [cache.find(prompt) for prompt in (first, second, third)] == [2 * BLOCK, 0, 2 * BLOCK]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_tokens_with_and_without(bundles: dict[str, Path], precision: str) -> None:
    rng = np.random.default_rng(5)
    shared = rng.integers(6, 300, size=70).tolist()
    given_prompts = [
        [*shared[: rng.integers(1, 71)], *rng.integers(6, 300, size=rng.integers(1, 30)).tolist()]
        for _ in range(40)
    ]
    found = []
    for size in (0, 2**20):
        with GPT2Ja.load(bundles[precision], batch_size=3, prefix_cache_bytes=size) as model:
            results = [
                model.generate([prompt], max_new_tokens=6, seed=3, num_return_sequences=2)
                for prompt in given_prompts
            ]
            found.append([result.token_ids for group in results for result in group])
            kept = model.statistics().shared_tokens
            # Each prompt's second sequence shares the first one's row either way.
            assert (kept > sum(map(len, given_prompts))) == (size > 0)
    assert found[0] == found[1]


def test_a_repeated_prompt_is_looked_up(bundles: dict[str, Path]) -> None:
    prompt = list(range(6, 106))
    with GPT2Ja.load(bundles["int8"]) as model:
        model.generate([prompt], max_new_tokens=1)
        assert model.statistics().shared_tokens == 0
        model.generate([prompt], max_new_tokens=1)
        assert model.statistics().shared_tokens == 96  # three blocks; the rest gives the scores


def test_a_size_that_cannot_be(bundles: dict[str, Path]) -> None:
    with pytest.raises(SettingError, match="prefix_cache_bytes must be at least 0, not -1"):
        GPT2Ja.load(bundles["int8"], prefix_cache_bytes=-1)
