"""Tokens that native operators choose are those of numpy."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2ja_kernels import Kernels, load_kernels
from gpt2ja_onnx.constraints.constraint import Constraint
from gpt2ja_onnx.device.base import HostLogits, Scores
from gpt2ja_onnx.sampling.best_tokens import best_of_all
from gpt2ja_onnx.sampling.candidates import Candidates
from gpt2ja_onnx.sampling.native import LEFT, NativeChoices
from gpt2ja_onnx.sampling.sampler import Sampler
from gpt2ja_onnx.sampling.state import SamplerState
from gpt2ja_onnx.sampling.warpers import Warpers, draw
from gpt2ja_onnx.settings.config import GenerationConfig

if TYPE_CHECKING:
    from collections.abc import Callable


@given(
    st.integers(0, 2**32 - 1),
    st.lists(
        st.fixed_dictionaries(
            {
                "temperature": st.sampled_from([0.01, 0.7, 1.0, 2.5, 1e-30]),
                "top_k": st.sampled_from([0, 1, 2, 50, 64, 200]),
                "top_p": st.sampled_from([0.01, 0.5, 0.9, 1.0]),
                "min_p": st.sampled_from([0.0, 0.05, 1.0]),
            }
        ),
        min_size=1,
        max_size=6,
    ),
)
@settings(max_examples=300, deadline=None)
def test_native_draws_are_those_of_the_warpers(seed: int, asked: list[dict[str, Any]]) -> None:
    native = load_kernels()
    assert isinstance(native, Kernels)
    random = np.random.default_rng(seed)
    rows, size = len(asked), int(random.integers(1, 80))
    scores = random.normal(0, 3, (rows, size)).astype(np.float32)
    scores[random.random((rows, size)) < 0.1] = -np.inf
    if seed % 3 == 0:
        scores = np.round(scores)  # many are equal
    scores[:, 0] = np.where(scores[:, 0] == -np.inf, 0, scores[:, 0])
    ids = np.argsort(-scores, axis=1, kind="stable")
    scores = np.take_along_axis(scores, ids, axis=1)
    uniform = random.random(rows)
    configs = [GenerationConfig(do_sample=True, **one) for one in asked]
    history = np.array([1])
    states = [SamplerState(config, (), random, history, 1, 9) for config in configs]
    expected = draw(*Warpers(states).apply(scores.copy(), ids), uniform).tolist()
    choices = NativeChoices(native, states, Candidates(states, size, 80), 80)
    for token, correct in zip(choices.choose_from(scores, ids, uniform), expected, strict=True):
        assert token in (correct, LEFT)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 50, 247, 248, 249, 300]))
@settings(max_examples=100, deadline=None)
def test_the_native_best_of_all_scores_are_those_of_numpy(seed: int, kept: int) -> None:
    native = load_kernels()
    assert isinstance(native, Kernels)
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, int(random.integers(2, 9000))).astype(np.float32)
    if seed % 2:
        logits = np.round(logits, int(random.integers(0, 3)))  # many are equal
    if seed % 5 == 0:
        logits[random.random(len(logits)) < 0.99] = -np.inf
    # A bias that raises a score makes all of them count.
    config = GenerationConfig(do_sample=True, top_k=kept, logit_bias={1: 4.0})
    state = SamplerState(config, (), random, np.array([1]), 1, 9)
    expected, found = best_of_all(logits, state), best_of_all(logits, state, native)
    assert found[0].tolist() == expected[0].tolist()
    assert found[1].tolist() == expected[1].tolist()


def rows_of_scores(
    random: np.random.Generator, rows: int, size: int, *, decimals: int = 9
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, rounded so that many may be equal, their 64 best and those's ids."""
    logits = np.round(random.normal(0, 3, (rows, size)).astype(np.float32), decimals)
    ids = np.lexsort((np.broadcast_to(np.arange(size), logits.shape), -logits))[:, :64]
    return logits, np.take_along_axis(logits, ids, axis=1), ids


def form_of(allowed: np.ndarray, eos: tuple[int, ...] = ()) -> Constraint:
    """A form that allows these tokens, with what a constraint reads of llguidance's."""
    bits = np.zeros((len(allowed) // 32 + 1) * 4, dtype=np.uint8)
    packed = np.packbits(allowed, bitorder="little")
    bits[: len(packed)] = packed
    tokens: Any = SimpleNamespace(size=len(allowed), spelled=np.full_like(bits, 255))
    matcher: Any = SimpleNamespace(is_error=lambda: False, stop_reason=lambda: "NoExtension")
    return Constraint(tokens, matcher, eos, bits)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 5, 50, 63]),
    st.sampled_from([0.0, 0.001, 0.01, 0.5, 1.0]),
    st.sampled_from([0, 1, 9]),
    st.fixed_dictionaries(
        {},
        optional={
            "repetition_penalty": st.sampled_from([1.2, 5.0]),
            "presence_penalty": st.just(0.5),
            "frequency_penalty": st.sampled_from([0.3, 1.5]),
            "no_repeat_ngram_size": st.sampled_from([1, 2, 3, 40]),
        },
    ),
)
@settings(max_examples=300, deadline=None)
def test_tokens_are_the_same_without_native_operators(
    seed: int, top_k: int, share: float, min_new_tokens: int, penalties: dict[str, Any]
) -> None:
    """Rows with a form and without, too short ones, a broken one, and one of odd settings."""
    native = load_kernels()
    assert isinstance(native, Kernels)
    random = np.random.default_rng(seed)
    size = int(random.integers(65, 5000))
    decimals = int(random.integers(0, 3)) if seed % 2 else 9
    logits, best, ids = rows_of_scores(random, 6, size, decimals=decimals)
    logits[4, :], best[4, :] = np.nan, np.nan
    eos = tuple(ids[0, [0, 3]].tolist())
    config = GenerationConfig(
        do_sample=seed % 3 > 0, top_k=top_k, top_p=0.9, min_new_tokens=min_new_tokens, **penalties
    )
    # Of few tokens, so that they and their n-grams come again.
    histories = random.choice(ids[:4, :6].ravel(), (6, int(random.integers(2, 40))))
    odd = dataclasses.replace(config, typical_p=0.8, repetition_penalty=1.3)
    forms = [random.random(size) < share for _ in range(6)]
    drawn = []
    for kernels in (None, native):
        states = [
            SamplerState(
                odd if row == 5 else config,
                eos,
                np.random.default_rng(seed),
                histories[row],
                1,
                99,
                None if row in (0, 2, 5) else form_of(forms[row], eos),
            )
            for row in range(6)
        ]
        scores = Scores(best, ids, HostLogits(logits, kernels))
        drawn.append([str(choice) for choice in Sampler().choose(scores, states)])
    assert drawn[0] == drawn[1]
    assert "NaN" in drawn[0][4]


def test_few_rows_are_left_to_numpy() -> None:
    native = load_kernels()
    assert isinstance(native, Kernels)
    random = np.random.default_rng(1)
    rows, size = 64, 4000
    logits, best, ids = rows_of_scores(random, rows, size)
    config = GenerationConfig(do_sample=True, top_k=50, top_p=0.9)

    def left(state: Callable[[int], SamplerState]) -> int:
        states = [state(row) for row in range(rows)]
        choices = NativeChoices(native, states, Candidates(states, 64, size), size)
        return choices.choose(Scores(best, ids, HostLogits(logits)), random.random(rows)).count(
            LEFT
        )

    def plain(row: int, **changes: Any) -> SamplerState:
        one = dataclasses.replace(config, **changes)
        return SamplerState(one, (7,), random, np.array([1, 2]), 1, 9)

    def with_form(row: int) -> SamplerState:
        state = plain(row)
        state.constraint = form_of(random.random(size) < 0.3)
        return state

    assert left(plain) < 4
    assert left(functools.partial(plain, do_sample=False)) < 4
    assert left(with_form) < 4
    # Of those that are too short only the ones that could end.
    assert left(functools.partial(plain, min_new_tokens=2)) == (ids == 7).any(axis=1).sum() > 0
    for changes in (
        {"repetition_penalty": 1.3}, {"presence_penalty": 2.0}, {"no_repeat_ngram_size": 2},
    ):  # fmt: skip
        assert left(functools.partial(plain, **changes)) < 4
    for changes in ({"top_k": 0}, {"top_k": 0, "repetition_penalty": 1.3}):
        assert left(functools.partial(plain, **changes)) < 24
    for changes in (
        {"top_k": 64}, {"typical_p": 0.9}, {"repetition_penalty": 0.9},
        {"top_k": 0, "repetition_penalty": 0.9},
    ):  # fmt: skip
        assert left(functools.partial(plain, **changes)) == rows


def test_rows_that_change_places_keep_their_forms() -> None:
    """A sampler keeps what it knows of a batch, whose rows come and go."""
    native = load_kernels()
    assert isinstance(native, Kernels)
    random = np.random.default_rng(2)
    logits, best, ids = rows_of_scores(random, 3, 500)
    config = GenerationConfig(do_sample=True, top_k=5)
    forms = [np.arange(500) // 100 == row for row in range(3)]
    sampler = Sampler()
    states = [
        SamplerState(config, (), random, np.array([1]), 1, 9, form_of(form)) for form in forms
    ]
    for order in ([0, 1, 2], [0, 1, 2], [2, 0, 1], [1], [1, 2], [0, 1, 2]):
        rows = range(len(order))
        scores = Scores(best[rows], ids[rows], HostLogits(logits[rows], native))
        chosen = sampler.choose(scores, [states[which] for which in order])
        assert [int(str(token)) // 100 for token in chosen] == order
