"""What a checkpoint says about generation reaches the loaded bundle, or a warning names it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.errors import CheckpointError
from tests.conftest import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpt2ja_onnx.bundle.manifest import Manifest

SETTINGS = ExportSettings(precision="fp32", verify=False)


@pytest.fixture
def export(checkpoint: Path, tmp_path: Path) -> Callable[..., Manifest]:
    """A function that exports the checkpoint with other settings to ``out``."""

    def make(generation: dict[str, Any] | None, **config: Any) -> Manifest:
        source = shutil.copytree(checkpoint, tmp_path / "source")
        path = source / "generation_config.json"
        if generation is None:
            path.unlink()
        else:
            path.write_text(json.dumps(generation))
        values = json.loads((source / "config.json").read_text()) | config
        named = {name: value for name, value in values.items() if value != "left out"}
        (source / "config.json").write_text(json.dumps(named))
        return export_bundle(str(source), tmp_path / "out", SETTINGS)

    return make


def ends_at(model: GPT2Ja, token: int) -> bool:
    """Whether a text ends when a token is by far the likeliest."""
    (result,) = model.generate(
        "朝の", max_new_tokens=3, do_sample=False, num_beams=1, logit_bias={token: 100}
    )
    return result.finish_reason == "eos"


@pytest.mark.parametrize(
    ("generation", "eos", "ends", "default"),
    [
        ({"eos_token_id": [3, 10]}, 3, [3, 10], (3, 10)),
        ({"eos_token_id": [3, 10]}, "left out", [3, 10], (3, 10)),
        ({"eos_token_id": 10}, "left out", [10], (10,)),
        ({"eos_token_id": 10}, 3, [10], (10,)),
        ({"eos_token_id": 3}, 3, [3], None),
        ({"eos_token_id": [10]}, [3, 11], [10], (10,)),
        ({}, 3, [3], None),
        ({}, [3, 10], [3, 10], (3, 10)),
        (None, [3, 10], [3, 10], (3, 10)),
        (None, 3, [3], None),
        ({}, "left out", [], None),
        (None, "left out", [], None),  # not at 50256, which transformers makes of it
    ],
)
def test_end_tokens(
    export: Callable[..., Manifest],
    tmp_path: Path,
    generation: dict[str, Any] | None,
    eos: Any,
    ends: list[int],
    default: tuple[int, ...] | None,
) -> None:
    export(generation, eos_token_id=eos)
    with GPT2Ja.load(tmp_path / "out") as model:
        assert model.defaults.eos_token_id == default
        assert [token for token in (3, 10, 11) if ends_at(model, token)] == ends


def test_what_the_runtime_has_is_carried_over(
    export: Callable[..., Manifest], tmp_path: Path
) -> None:
    export(
        {
            "early_stopping": "never", "num_beams": 2, "suppress_tokens": [20, 21],
            "bad_words_ids": [[7], [8, 9]], "sequence_bias": [[[12, 13], -2.5]],
            "exponential_decay_length_penalty": [5, 1.5], "forced_eos_token_id": 3,
            "no_repeat_ngram_size": 3, "top_k": None, "typical_p": 0.5, "max_new_tokens": 7,
        }
    )  # fmt: skip
    with GPT2Ja.load(tmp_path / "out") as model:
        assert model.defaults.to_dict() == {
            "early_stopping": "never", "num_beams": 2, "suppress_tokens": (20, 21),
            "bad_words_ids": ((7,), (8, 9)), "sequence_bias": (((12, 13), -2.5),),
            "exponential_decay_length_penalty": (5, 1.5), "forced_eos_token_id": (3,),
            "no_repeat_ngram_size": 3, "top_k": 0, "typical_p": 0.5, "max_new_tokens": 7,
        }  # fmt: skip
        (result,) = model.generate("朝の", logit_bias={20: 100, 7: 100}, min_new_tokens=7)
        assert result.completion_tokens == 7
        assert not {7, 20, 21} & set(result.token_ids)


def test_what_the_runtime_does_not_have_is_named(export: Callable[..., Manifest]) -> None:
    with pytest.warns(RuntimeWarning) as warned:
        manifest = export({"max_length": 50, "max_time": 2.0, "top_p": 0.9, "pad_token_id": 0})
    assert [str(warning.message).partition(": ")[2] for warning in warned] == [
        "its generation settings name max_length, max_time, which the runtime does not have"
    ]
    assert manifest.generation_defaults == {"top_p": 0.9}


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"eos_token_id": [3, VOCABULARY]}, "eos_token_id must hold ids below 384, not 384"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be token ids, not '</s>'"),
        ({"suppress_tokens": [400]}, "suppress_tokens must hold ids below 384, not 400"),
        ({"bad_words_ids": [[]]}, "bad_words_ids must not hold an empty list"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, not 1.5"),
    ],
)
def test_what_the_runtime_would_refuse(
    export: Callable[..., Manifest], tmp_path: Path, generation: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=f"source: .*{message}"):
        export(generation)
    assert not (tmp_path / "out").exists()


def test_special_ids_outside_of_the_vocabulary(
    export: Callable[..., Manifest], tmp_path: Path
) -> None:
    with pytest.warns(RuntimeWarning, match="eos_token_id 50256, which is not in the vocabulary"):
        manifest = export(None, eos_token_id=50256)
    assert manifest.special_ids == {"pad": 0, "bos": 2}
    with GPT2Ja.load(tmp_path / "out") as model:
        assert model.generate("朝の", max_new_tokens=3)[0].completion_tokens == 3
