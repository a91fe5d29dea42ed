"""Settings: defaults, ranges, and messages that name the setting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from transformers import GenerationConfig as TransformersConfig

from gpt2ja_onnx import GenerationConfig
from gpt2ja_onnx.errors import SettingError

if TYPE_CHECKING:
    from gpt2ja_onnx.settings.keywords import Settings


def test_defaults_are_those_of_transformers() -> None:
    ours, theirs = GenerationConfig(), TransformersConfig()
    names = ("do_sample", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty",
             "no_repeat_ngram_size", "num_return_sequences", "num_beams", "length_penalty",
             "early_stopping")  # fmt: skip
    assert {n: getattr(ours, n) for n in names} == {n: getattr(theirs, n) for n in names}
    assert ours.max_new_tokens == theirs.max_length


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, not 1.5"),
        ({"top_p": 0}, "top_p must be above 0"),
        ({"top_k": -1}, "top_k must be at least 0, not -1"),
        ({"top_k": 1.5}, "top_k must be a whole number, not 1.5"),
        ({"top_k": True}, "top_k must be a whole number"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"temperature": math.nan}, "temperature must be above 0"),
        ({"temperature": math.inf}, "temperature must be above 0"),
        ({"temperature": "hot"}, "temperature must be a number, not 'hot'"),
        ({"temperature": None}, "temperature must be a number"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        (
            {"min_new_tokens": 30, "max_new_tokens": 20},
            r"min_new_tokens \(30\) must not be above max_new_tokens \(20\)",
        ),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**64}, "seed must be at least 0 and at most"),
        ({"stop": ""}, "stop must be strings that are not empty"),
        ({"stop": ["a", 3]}, "stop must be strings"),
        ({"bad_words_ids": [[]]}, "bad_words_ids must not hold an empty list"),
        ({"bad_words_ids": [3]}, "bad_words_ids must be a list of lists"),
        ({"suppress_tokens": [-1]}, "suppress_tokens must be token ids"),
        ({"do_sample": 1}, "do_sample must be True or False"),
        ({"num_beams": 0}, "num_beams must be at least 1"),
        ({"length_penalty": math.nan}, "length_penalty must be at least -50 and at most 50"),
        ({"early_stopping": 1}, 'early_stopping must be True, False or "never", not 1'),
        ({"early_stopping": "ever"}, "not 'ever'"),
        (
            {"num_beams": 2, "num_return_sequences": 3},
            r"num_return_sequences \(3\) must not be above num_beams \(2\)",
        ),
    ],
)
def test_a_wrong_value_is_named(settings: Settings, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        GenerationConfig(**settings)
    with pytest.raises(ValueError, match=message):
        GenerationConfig().override(settings)


def test_one_stop_string_may_stand_alone() -> None:
    assert GenerationConfig(stop="。").stop == ("。",)
