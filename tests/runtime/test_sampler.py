"""The sampler against transformers' own processors, and against the distribution it claims."""

from __future__ import annotations

import functools
import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as hf

from gpt2ja_onnx.device.base import HostLogits, Scores
from gpt2ja_onnx.errors import GenerationError
from gpt2ja_onnx.sampling.best_tokens import process
from gpt2ja_onnx.sampling.sampler import Sampler
from gpt2ja_onnx.sampling.state import SamplerState, random_stream
from gpt2ja_onnx.sampling.warpers import Warpers, softmax
from gpt2ja_onnx.settings.config import GenerationConfig
from tests.tolerances import PROBABILITY, assert_near

EOS = 3
VOCABULARY = 96
CANDIDATES = 64
MAX_LENGTH = 13


def transformers_scores(
    logits: np.ndarray, history: np.ndarray, prompt_length: int, config: GenerationConfig
) -> np.ndarray:
    """What transformers' processors and warpers make of one row of logits."""
    eos = torch.tensor([EOS])
    steps: list[hf.LogitsProcessor] = []
    biases: Any = dict(config.sequence_bias)
    if biases:
        steps.append(hf.SequenceBiasLogitsProcessor(biases))
    if config.repetition_penalty != 1:
        steps.append(hf.RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        steps.append(hf.NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if config.bad_words_ids:
        words = [list(word) for word in config.bad_words_ids]
        steps.append(hf.NoBadWordsLogitsProcessor(words, eos))
    if config.min_new_tokens:
        steps.append(
            hf.MinNewTokensLengthLogitsProcessor(prompt_length, config.min_new_tokens, eos)
        )
    if config.forced_eos_token_id:
        forced = torch.tensor(config.forced_eos_token_id)
        steps.append(hf.ForcedEOSTokenLogitsProcessor(MAX_LENGTH, forced))
    if config.exponential_decay_length_penalty:
        decay = config.exponential_decay_length_penalty
        steps.append(hf.ExponentialDecayLengthPenalty(decay, eos, prompt_length))
    if config.suppress_tokens:
        steps.append(hf.SuppressTokensLogitsProcessor(list(config.suppress_tokens)))
    if config.temperature != 1:
        steps.append(hf.TemperatureLogitsWarper(float(config.temperature)))
    if config.top_k:
        steps.append(hf.TopKLogitsWarper(config.top_k))
    if config.top_p < 1:
        steps.append(hf.TopPLogitsWarper(config.top_p))
    if config.min_p > 0:
        steps.append(hf.MinPLogitsWarper(config.min_p))
    if config.typical_p < 1:
        steps.append(hf.TypicalLogitsWarper(config.typical_p))
    if config.epsilon_cutoff > 0:
        steps.append(hf.EpsilonLogitsWarper(config.epsilon_cutoff))
    if config.eta_cutoff > 0:
        steps.append(hf.EtaLogitsWarper(config.eta_cutoff))
    if config.renormalize_logits:
        steps.append(hf.LogitNormalization())
    scores = torch.from_numpy(logits.copy())[None]
    ids = torch.from_numpy(history)[None]
    # torch leaves open which of equal scores its sort puts first, and top-p cuts between them; a
    # stable sort is the order that it documents where it documents one.
    with mock.patch("torch.sort", functools.partial(torch.sort, stable=True)):
        for step in steps:
            scores = step(ids, scores)
            if scores.isnan().any():
                break
    return scores[0].numpy()


def our_probabilities(logits: np.ndarray, state: SamplerState) -> np.ndarray:
    """The sampler's probabilities over the vocabulary, from all scores."""
    scores = logits.copy()
    ids = np.arange(len(scores))
    with np.errstate(all="ignore"):
        process(scores, ids, state)
        order = np.lexsort((ids, -scores))
        kept, kept_ids = Warpers([state]).apply(scores[None, order], ids[None, order])
        kept = softmax(kept)
    probabilities = np.zeros(len(scores), dtype=np.float32)
    probabilities[kept_ids[0]] = kept[0]
    return probabilities


def make_state(config: GenerationConfig, history: np.ndarray, seed: int = 0) -> SamplerState:
    return SamplerState(
        config, (EOS,), random_stream(seed, 0), history, prompt_length=3, max_length=MAX_LENGTH
    )


def choose(
    candidates: np.ndarray, ids: np.ndarray, logits: np.ndarray, states: list[SamplerState]
) -> list[Any]:
    """One choice of a new sampler."""
    return Sampler().choose(Scores(candidates, ids, HostLogits(logits)), states)


configs = st.builds(
    GenerationConfig,
    do_sample=st.just(True),
    max_new_tokens=st.just(100),
    min_new_tokens=st.sampled_from([0, 0, 50]),
    temperature=st.sampled_from([1.0, 0.3, 0.7, 1.9]),
    top_k=st.sampled_from([0, 1, 5, 20, 50, 64, 200]),
    top_p=st.sampled_from([1.0, 0.05, 0.5, 0.9, 0.95]),
    min_p=st.sampled_from([0.0, 0.02, 0.3]),
    typical_p=st.sampled_from([1.0, 0.2, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 0.8, 1.3, 4.0]),
    no_repeat_ngram_size=st.sampled_from([0, 0, 1, 2, 3]),
    bad_words_ids=st.sampled_from([(), ((7,), (EOS,)), ((1, 2), (5, 6, 7))]),
    suppress_tokens=st.sampled_from([(), (4, 9)]),
    epsilon_cutoff=st.sampled_from([0.0, 0.0, 3e-4, 0.1]),
    eta_cutoff=st.sampled_from([0.0, 0.0, 2e-3, 0.3]),
    sequence_bias=st.sampled_from([(), {(5,): 3.0, (1, 2): -4.0}, {(7, 8): 2.5, (9,): -1.0}]),
    exponential_decay_length_penalty=st.sampled_from([None, None, (2, 1.5), (0, 0.7)]),
    forced_eos_token_id=st.sampled_from([(), (), (EOS, 20)]),
    renormalize_logits=st.booleans(),
)
histories = st.lists(st.integers(0, 9), min_size=3, max_size=12).map(
    lambda ids: np.array(ids, dtype=np.int64)
)
# Coarse values make ties; the extremes saturate the softmax.
logit_rows = st.builds(
    lambda seed, scale, step: (
        np.round(np.random.default_rng(seed).normal(size=VOCABULARY) * scale / step) * step
    ).astype(np.float32),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.01, 1.0, 5.0, 60.0]),
    step=st.sampled_from([1e-6, 0.25, 2.0]),
)


@settings(max_examples=400, deadline=None)
@given(configs, histories, logit_rows)
def test_same_distribution_as_transformers(
    config: GenerationConfig, history: np.ndarray, logits: np.ndarray
) -> None:
    theirs = transformers_scores(logits, history, 3, config)
    assume(not np.isnan(theirs).any())  # of an end token that is banned and raised
    if not np.isfinite(theirs).any():
        return  # nothing left: theirs is NaN, ours an error of its own test
    expected = torch.from_numpy(theirs).softmax(-1).numpy()
    found = our_probabilities(logits, make_state(config, history))
    np.testing.assert_array_equal(found > 0, expected > 0)
    assert_near(found, expected, PROBABILITY)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(configs, histories, logit_rows), min_size=1, max_size=5))
def test_candidates_give_what_all_scores_give(
    rows: list[tuple[GenerationConfig, np.ndarray, np.ndarray]],
) -> None:
    """The short way over the graph's candidates never changes a token."""
    logits = np.stack([row[2] for row in rows])
    order = np.stack([np.lexsort((np.arange(VOCABULARY), -row)) for row in logits])
    ids = order[:, :CANDIDATES].astype(np.int64)
    scores = np.take_along_axis(logits, ids, axis=1)
    everything = np.take_along_axis(logits, order, axis=1)
    short = choose(scores, ids, logits, [make_state(c, h) for c, h, _ in rows])
    full = choose(everything, order, logits, [make_state(c, h) for c, h, _ in rows])
    assert list(map(str, short)) == list(map(str, full))


@pytest.mark.parametrize("vocabulary", [20, 500])
def test_greedy_takes_the_best_and_the_lowest_id_of_equal_ones(vocabulary: int) -> None:
    logits = np.zeros((1, vocabulary), dtype=np.float32)
    logits[0, [11, 7]] = 2.0
    ids = np.lexsort((np.arange(vocabulary), -logits[0]))[None, :CANDIDATES]
    scores = np.take_along_axis(logits, ids, axis=1)
    state = make_state(GenerationConfig(), np.array([1, 2, 3]))
    assert choose(scores, ids, logits, [state]) == [7]


def test_drawn_tokens_follow_the_distribution() -> None:
    """Chi-square over 20,000 draws; the bound is the 99.99 % quantile of its normal limit."""
    logits = np.random.default_rng(5).normal(size=VOCABULARY).astype(np.float32) * 2
    config = GenerationConfig(do_sample=True, top_k=20, top_p=0.9, temperature=1.2)
    expected = our_probabilities(logits, make_state(config, np.array([1, 2, 3])))
    order = np.lexsort((np.arange(VOCABULARY), -logits))[None]
    state = make_state(config, np.array([1, 2, 3]), seed=11)
    sampler = Sampler()
    scores = Scores(logits[order], order, HostLogits(logits[None]))
    draws = 20_000
    counts = np.zeros(VOCABULARY)
    for _ in range(draws):
        (token,) = sampler.choose(scores, [state])
        assert isinstance(token, int)
        counts[token] += 1
    kept = expected > 0
    assert counts[~kept].sum() == 0
    chi_square = ((counts[kept] - draws * expected[kept]) ** 2 / (draws * expected[kept])).sum()
    freedom = kept.sum() - 1
    assert freedom >= 5
    assert chi_square < freedom + 3.72 * math.sqrt(2 * freedom)


def test_streams_of_sequences_differ_and_repeat() -> None:
    draws = {
        key: random_stream(*key).random(4).tolist()
        for key in [(1, 0), (1, 1), (2, 0), (2**64 - 1, 0)]
    }
    assert len({tuple(values) for values in draws.values()}) == 4
    assert random_stream(1, 1).random(4).tolist() == draws[1, 1]


def test_nothing_left_is_an_error_of_that_row_alone() -> None:
    logits = np.zeros((2, 4), dtype=np.float32)
    order = np.tile(np.arange(4), (2, 1))
    banned = GenerationConfig(suppress_tokens=(0, 1, 2, 3))
    states = [make_state(banned, np.array([1])), make_state(GenerationConfig(), np.array([1]))]
    first, second = choose(logits, order, logits, states)
    assert isinstance(first, GenerationError)
    assert second == 0


def test_what_another_row_keeps_changes_no_sum() -> None:
    """The last number of a stream, and a top-p at the edge of a sum: one unit of it shows."""
    found = set()
    for seed in range(300):
        random = np.random.default_rng(seed)
        logits = random.normal(0, 2, (2, 1000)).astype(np.float32)
        ids = np.argsort(-logits, axis=1, kind="stable")[:, :CANDIDATES]
        best = np.take_along_axis(logits, ids, axis=1)
        tails = np.cumsum(softmax(best[:1, :20])[0, ::-1], dtype=np.float64)[::-1]
        top_p = 1 - float(np.float32(tails[int(random.integers(1, 19))]))
        one = GenerationConfig(do_sample=True, top_k=20, top_p=top_p)
        other = GenerationConfig(do_sample=True, top_k=40, typical_p=0.9)

        def chosen(*configs: GenerationConfig, rows: Any = (logits, best, ids)) -> Any:
            stream: Any = mock.Mock(random=lambda: 1 - 2**-53)
            states = [SamplerState(c, (), stream, np.array([1]), 1, 9) for c in configs]
            few = [array[: len(configs)] for array in rows]
            return Sampler().choose(Scores(few[1], few[2], HostLogits(few[0])), states)[0]

        found.add(chosen(one) == chosen(one, other))
    assert found == {True}
