"""Beam search on tables of scores: against every text there is, and its moves against its texts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from gpt2ja_onnx import GenerationConfig
from gpt2ja_onnx.device.base import HostLogits, Scores
from gpt2ja_onnx.engine.beams import Beams
from gpt2ja_onnx.sampling.beam_search import BeamSearch
from gpt2ja_onnx.sampling.state import SamplerState, random_stream
from tests.fakes import make_group

EOS = 0


def make_search(max_length: int, seed: int = 0, **settings: Any) -> tuple[BeamSearch, list[Any]]:
    """A search after a prompt of one token, and the states of its beams."""
    config = GenerationConfig(**settings)
    states = [
        SamplerState(config, (EOS,), random_stream(seed, 0), np.array([1]), 1, max_length)
        for _ in range(config.num_beams)
    ]
    return BeamSearch(states, max_length), states


def advance(search: BeamSearch, states: list[Any], table: Any) -> list[Any]:
    """A step of a model whose scores depend on the last token."""
    logits = np.stack([table[state.history[-1]] for state in states])
    order = np.argsort(-logits, axis=1, kind="stable")
    candidates = np.take_along_axis(logits, order, axis=1)
    return search.advance(Scores(candidates, order, HostLogits(logits)))


def log_softmax(table: Any) -> Any:
    return table - np.log(np.exp(table).sum(axis=-1, keepdims=True))


@pytest.fixture
def tables() -> Any:
    """Scores by length of the text, last token and next token."""
    return np.random.default_rng(3).normal(size=(4, 5, 5)).astype(np.float32)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5])
def test_beams_for_every_text_find_the_best_ones(tables: Any, length_penalty: float) -> None:
    search, states = make_search(
        5, num_beams=700, length_penalty=length_penalty, early_stopping="never"
    )
    for table in tables:
        advance(search, states, table)
    assert search.done
    logprobs = log_softmax(tables)
    scores = {}
    for text in itertools.product(range(5), repeat=4):
        ended = text[: text.index(EOS) + 1] if EOS in text else text
        steps = zip(range(4), (1, *ended), ended, strict=False)
        scores[ended] = sum(logprobs[step] for step in steps) / len(ended) ** length_penalty
    best = sorted(scores, key=lambda text: -scores[text])
    found = [tuple(hypothesis.tokens.tolist()) for hypothesis in search.hypotheses]
    assert found[:50] == best[:50]
    expected = [scores[text] for text in best[:50]]
    np.testing.assert_allclose([h.score for h in search.hypotheses[:50]], expected, rtol=1e-5)


def unhurried(tables: Any, beams: int, length_penalty: float) -> list[tuple[int, ...]]:
    """What a beam search finds that stops at the last table only."""
    running: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    ended = []
    for table in log_softmax(tables):
        candidates = [
            (score + logprob, (*text, token))
            for score, text in running
            for token, logprob in enumerate(table[(1, *text)[-1]])
        ]
        candidates = sorted(candidates, reverse=True)[: 2 * beams]
        last = len(candidates[0][1]) == len(tables)
        for score, text in candidates[:beams]:
            if last or text[-1] == EOS:
                ended.append((score / len(text) ** length_penalty, text))
        running = [c for c in candidates if c[1][-1] != EOS][:beams]
    return [text for _, text in sorted(ended, reverse=True)[:beams]]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5])
def test_never_stopping_early_misses_nothing(length_penalty: float) -> None:
    rng = np.random.default_rng(0)
    saved = 0
    for _ in range(40):
        tables = rng.normal(scale=2, size=(12, 5, 5)).astype(np.float32)
        search, states = make_search(
            13, num_beams=2, length_penalty=length_penalty, early_stopping="never"
        )
        for left in range(12, 0, -1):
            advance(search, states, tables[12 - left])
            if search.done:
                saved += left - 1
                break
        found = [tuple(hypothesis.tokens.tolist()) for hypothesis in search.hypotheses]
        assert found == unhurried(tables, 2, length_penalty)
    assert saved > 0


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}, {"do_sample": True, "top_k": 1}])
def test_moves_make_the_texts(settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    search, states = make_search(30, num_beams=4, early_stopping="never", **settings)
    cached = [[1] for _ in states]
    for _ in range(25):
        moves = advance(search, states, rng.normal(size=(7, 7)).astype(np.float32))
        assert not {move.source for move in moves} & {move.target for move in moves}
        for source, target, start in moves:
            assert cached[target][:start] == cached[source][:start]
            assert start < len(cached[source])
            cached[target][start:] = cached[source][start:]
        for row, state in zip(cached, states, strict=True):
            assert state.history[:-1].tolist() == row
            row.append(int(state.history[-1]))


def test_drawn_continuations_have_the_probabilities_of_draws_without_replacement(
    tables: Any,
) -> None:
    """Two beams draw four of five tokens; the first two end, and the likelier one is best."""
    probability = np.exp(log_softmax(tables[0, 1] / 1.5))
    expected = np.zeros(5)
    for first, second in itertools.permutations(range(5), 2):
        chance = probability[first] * probability[second] / (1 - probability[first])
        expected[max(first, second, key=lambda token: probability[token])] += chance
    found = np.zeros(5)
    for seed in range(4000):
        search, states = make_search(2, seed, num_beams=2, do_sample=True, temperature=1.5)
        advance(search, states, tables[0])
        found[search.hypotheses[0].tokens[0]] += 1 / 4000
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_a_search_without_continuations_ends() -> None:
    search, states = make_search(9, num_beams=2, suppress_tokens=[1, 2, 3, 4])
    advance(search, states, np.zeros((5, 5), dtype=np.float32))
    assert search.done
    assert [h.tokens.tolist() for h in search.hypotheses] == [[EOS]]


def test_no_beam_goes_on_beyond_a_stop_string() -> None:
    """Stop strings of two tokens, so that a beam must know what its text ends with."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        pairs = rng.integers(0, 12, (25, 2)).tolist()
        group = make_group(
            [1], num_beams=4, num_return_sequences=4, max_new_tokens=12, early_stopping="never",
            stop=[f"{chr(97 + one)}{chr(97 + two)}" for one, two in pairs],
        )  # fmt: skip
        beams = Beams(group)
        for _ in range(12):
            if group.done:
                break
            logits = rng.normal(scale=2, size=(4, 12)).astype(np.float32)
            order = np.argsort(-logits, axis=1)
            candidates = np.take_along_axis(logits, order, axis=1)
            beams.advance(Scores(candidates, order, HostLogits(logits)))
        assert group.done
        for sequence in group.finished.values():
            found = [list(pair) in pairs for pair in itertools.pairwise(sequence.token_ids)]
            assert not any(found[:-1])
            assert (sequence.finish_reason == "stop") == found[-1]
