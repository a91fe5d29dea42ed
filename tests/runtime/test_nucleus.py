"""Drawing without a top-k gives the tokens of sorted rows, in a fraction of the time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2ja_kernels import Kernels, load_kernels
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.device.base import HostLogits, Scores
from gpt2ja_onnx.sampling.sampler import Sampler
from gpt2ja_onnx.sampling.state import SamplerState, random_stream
from gpt2ja_onnx.sampling.warpers import Warpers, draw
from gpt2ja_onnx.settings.config import GenerationConfig

if TYPE_CHECKING:
    from gpt2ja_onnx.device.base import Floats

CANDIDATES = 16


def make_state(config: GenerationConfig, seed: int) -> SamplerState:
    history = np.array([1, 2, 3])
    return SamplerState(config, (0,), random_stream(seed, 0), history, 3, 99)


def by_sorting(logits: Floats, states: list[SamplerState]) -> list[int]:
    """What sorting every row and warping it gives."""
    tokens = []
    for row, state in zip(logits, states, strict=True):
        order = np.lexsort((np.arange(len(row)), -row))
        uniform = np.array([state.random.random()])
        with np.errstate(all="ignore"):
            warped = Warpers([state]).apply(row[None, order], order[None])
            tokens.append(int(draw(*warped, uniform)[0]))
    return tokens


configs = st.builds(
    GenerationConfig,
    do_sample=st.just(True),
    top_k=st.just(0),
    top_p=st.sampled_from([1.0, 0.05, 0.5, 0.9, 0.99]),
    min_p=st.sampled_from([0.0, 0.0, 0.02, 0.5]),
    temperature=st.sampled_from([1.0, 0.3, 2.5]),
)
rows = st.tuples(
    configs,
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.01, 1.0, 4.0, 60.0]),  # flat rows need all scores, sharp ones do not
    st.sampled_from([1e-6, 0.5, 2.0]),  # coarse steps make ties
)


def native_or_none(native: bool) -> Kernels | None:
    if not native:
        return None
    kernels = load_kernels()
    assert isinstance(kernels, Kernels), kernels
    return kernels


@pytest.mark.parametrize("native", [False, True])
@settings(max_examples=400, deadline=None)
@given(given_rows=st.lists(rows, min_size=1, max_size=4))
def test_tokens_are_those_of_sorted_rows(
    given_rows: list[tuple[GenerationConfig, int, float, float]], native: bool
) -> None:
    logits = np.stack(
        [
            (np.round(np.random.default_rng(seed).normal(size=300) * scale / step) * step).astype(
                np.float32
            )
            for _, seed, scale, step in given_rows
        ]
    )
    order = np.stack([np.lexsort((np.arange(300), -row)) for row in logits])[:, :CANDIDATES]
    host = HostLogits(logits, native_or_none(native))
    scores = Scores(np.take_along_axis(logits, order, axis=1), order, host)
    found = Sampler().choose(scores, [make_state(c, seed) for c, seed, _, _ in given_rows])
    assert found == by_sorting(logits, [make_state(c, seed) for c, seed, _, _ in given_rows])


def test_native_draws_leave_few_rows_to_numpy() -> None:
    """Of a vocabulary of the published size, sharp and flat."""
    kernels = native_or_none(native=True)
    assert kernels is not None
    random = np.random.default_rng(1)
    for spread in (1, 3):
        logits = (random.normal(size=(64, 32_000)) * spread).astype(np.float32)
        ones = np.ones(64)
        drawn = kernels.draw_nucleus(
            logits, ones.astype(np.float32), ones * 0.05, ones * 0, random.random(64)
        )
        assert (drawn < 0).sum() < 24
        assert len(set(drawn.tolist())) > 30


def test_without_a_top_k_takes_at_most_twice_as_long() -> None:
    """32 texts of 60 tokens; sorting whole rows took eighteen times as long."""
    with GPT2Ja.load(batch_size=32) as model:

        def seconds(top_k: int) -> float:
            started = time.perf_counter()
            model.generate(
                ["京都の寺院は、"] * 32, top_k=top_k, top_p=0.95, temperature=1.0, seed=1,
                max_new_tokens=60, eos_token_id=[], do_sample=True,
            )  # fmt: skip
            return time.perf_counter() - started

        seconds(50)
        # In turns, and the best of several: other processes may take the machine for a while.
        assert min(seconds(0) / seconds(50) for _ in range(6)) < 2
