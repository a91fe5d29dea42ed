"""A seed's ids stay what they are from release to release: a fixed model of no weights says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.settings.keywords import Settings
from tests.fakes import FakeSession, make_group, run, token_ids

GOLDEN = Path(__file__).with_name("golden.json")
CASES: dict[str, Settings] = {
    "greedy": Settings(),
    "sampled": Settings(do_sample=True, seed=1),
    "nucleus": Settings(do_sample=True, seed=2, top_p=0.8, top_k=6),
    "all tokens": Settings(do_sample=True, seed=3, top_k=0),
    "hot": Settings(do_sample=True, seed=4, temperature=2.5, min_p=0.02),
    "typical": Settings(do_sample=True, seed=5, typical_p=0.7, temperature=2.0),
    "cutoffs": Settings(do_sample=True, seed=6, eta_cutoff=0.1, epsilon_cutoff=0.02),
    "penalties": Settings(
        do_sample=True, seed=7, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2
    ),
    "biases": Settings(do_sample=True, seed=8, logit_bias={3: 2.0}, sequence_bias={(3, 4): 4.0}),
    "sequences": Settings(do_sample=True, seed=9, num_return_sequences=3),
    "beams": Settings(num_beams=3, num_return_sequences=2),
    "drawn beams": Settings(num_beams=3, do_sample=True, seed=10, temperature=2.0),
}


@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_the_first_release(name: str) -> None:
    golden: dict[str, list[list[int]]] = json.loads(GOLDEN.read_text())
    settings: Settings = {"max_new_tokens": 16} | CASES[name]
    groups = [make_group([1, 2, 3], **settings), make_group([5, 4], do_sample=True, seed=99)]
    run(Engine(FakeSession(), max_rows=6), groups)
    assert token_ids(groups[0]) == golden[name]
