"""Whatever a user types ends in a result or in an error of this project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpt2ja_onnx import GenerationConfig, GenerationResult, Gpt2jaError

if TYPE_CHECKING:
    from gpt2ja_onnx import GPT2Ja

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 200),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**400, 10**5000]),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-1, 400), max_size=3),
)
_OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "do_sample": st.booleans() | anything,
    "max_new_tokens": st.integers(1, 12) | anything,
    "min_new_tokens": st.integers(0, 12) | anything,
    "temperature": st.floats(1e-6, 1e6) | anything,
    "top_k": anything,
    "top_p": st.floats(0, 1) | anything,
    "min_p": st.floats(0, 1) | anything,
    "typical_p": st.floats(0, 1) | anything,
    "repetition_penalty": st.floats(1e-3, 1e3) | anything,
    "no_repeat_ngram_size": anything,
    "num_return_sequences": st.integers(1, 3),
    "num_beams": st.integers(1, 3) | anything,
    "length_penalty": st.floats(-50, 50) | anything,
    "early_stopping": st.sampled_from([True, False, "never"]) | anything,
    "bad_words_ids": st.lists(st.lists(st.integers(0, 383), max_size=3), max_size=2) | anything,
    "suppress_tokens": anything,
    "seed": anything,
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=2) | anything,
    "logprobs": anything,
    "epsilon_cutoff": st.floats(0, 1) | anything,
    "eta_cutoff": st.floats(0, 1) | anything,
    "presence_penalty": st.floats(-2, 2) | anything,
    "frequency_penalty": st.floats(-2, 2) | anything,
    "logit_bias": st.dictionaries(st.integers(0, 383), st.floats(-100, 100), max_size=3) | anything,
    "sequence_bias": st.lists(
        st.tuples(st.lists(st.integers(0, 383), max_size=3), st.floats()), max_size=2
    )
    | anything,
    "exponential_decay_length_penalty": st.tuples(st.integers(0, 9), st.floats(0, 1e3)) | anything,
    "forced_eos_token_id": st.lists(st.integers(0, 383), max_size=2) | anything,
    "eos_token_id": st.lists(st.integers(0, 383), max_size=3) | anything,
    "renormalize_logits": st.booleans() | anything,
    "regex": st.sampled_from(["[あ-ん]{1,5}", ".*", "(", "京都|東京"]) | anything,
    "choices": st.lists(st.text(max_size=3), max_size=3) | anything,
    "json_schema": st.sampled_from([{"type": "integer"}, {"type": "object"}, {"type": 1}])
    | anything,
    "grammar": st.sampled_from(['start: "a" | "の"', "start:"]) | anything,
    "logits_processors": st.just([lambda history, scores: scores * 2]) | anything,
}
some_settings = st.fixed_dictionaries({}, optional=_OPTIONAL)
prompts = st.text(st.characters(), max_size=40) | st.just("超" * 500)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(prompts, some_settings)
@example("😀\ud800\0\u200b\n", {})
@example("朝の", {"repetition_penalty": 1e3, "temperature": 1e-6, "do_sample": True})
def test_a_result_or_an_error_of_ours(
    fp32_model: GPT2Ja, prompt: str, settings: dict[str, Any]
) -> None:
    outcome: Any
    try:
        outcome = fp32_model.generate(prompt, **settings)
    except Gpt2jaError as error:
        outcome = error
    if isinstance(outcome, Gpt2jaError):
        assert "engine failed" not in str(outcome)
        assert "sampling failed" not in str(outcome)
        assert "request failed" not in str(outcome)
    else:
        assert len(outcome) == settings.get("num_return_sequences", 1)
        assert all(isinstance(result, GenerationResult) for result in outcome)


def test_every_setting_is_fuzzed() -> None:
    fuzzed = {*_OPTIONAL, "timeout"}  # a timeout would make the outcome depend on the machine
    assert fuzzed == set(GenerationConfig.declared())
