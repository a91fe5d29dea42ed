"""A new processor or warper takes one class, a new setting one declaration; the rest follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import click
import numpy as np
import pytest
from click.testing import CliRunner

from gpt2ja_onnx.cli import options
from gpt2ja_onnx.device.base import HostLogits, Scores
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.engine.group import SequenceGroup
from gpt2ja_onnx.errors import SettingError
from gpt2ja_onnx.sampling import processors, warpers
from gpt2ja_onnx.sampling.sampler import Sampler
from gpt2ja_onnx.sampling.state import SamplerState, random_stream
from gpt2ja_onnx.settings.config import GenerationConfig, setting
from gpt2ja_onnx.settings.kinds import Whole
from tests.fakes import SHAPE, FakeSession, expected_ids, run, token_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2ja_onnx.device.base import Floats, Ids
    from gpt2ja_onnx.sampling.processors import Lengths
    from gpt2ja_onnx.sampling.warpers import Rows


@dataclass(frozen=True, slots=True, init=False, repr=False)
class ShyConfig(GenerationConfig):
    shyness: int = setting(
        0, Whole(0, 11), en="Ids below this are not said.", ja="この ID 未満は出力しない",
        group="tokens",
    )  # fmt: skip


class Shy:
    """Bans small ids."""

    lowers_only = True
    tokens: tuple[int, ...] | None = None

    def __init__(self, least: int) -> None:
        self._least = least

    @classmethod
    def of(cls, config: GenerationConfig, lengths: Lengths) -> Self | None:
        return cls(config.shyness) if isinstance(config, ShyConfig) and config.shyness else None

    def active(self, history: Ids) -> bool:
        return True

    def __call__(self, history: Ids, scores: Floats, ids: Ids) -> None:
        scores[ids < self._least] = -np.inf


def test_a_processor_and_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "PROCESSORS", [*processors.PROCESSORS, Shy])
    with pytest.raises(SettingError, match="shyness must be at least 0 and at most 11, not 12"):
        ShyConfig(shyness=12)  # type: ignore[call-arg] # keywords are made by `make settings`
    config = ShyConfig(max_new_tokens=8).override({"shyness": 6})
    assert repr(config) == "ShyConfig(max_new_tokens=8, shyness=6)"
    groups = [
        SequenceGroup(np.array([1, 2]), chosen, eos=(), context=SHAPE.context, tokenizer=None)
        for chosen in (config, GenerationConfig(max_new_tokens=8))
    ]
    run(Engine(FakeSession(), max_rows=4), groups)
    assert min(token_ids(groups[0])[0]) >= 6
    assert token_ids(groups[1]) == [expected_ids([1, 2], 8)]
    assert min(expected_ids([1, 2], 8)) < 6


class ShyWarper:
    """Drops all but the two likeliest tokens of a shy row."""

    def __init__(self, rows: NDArray[np.bool_]) -> None:
        self._rows = rows

    @classmethod
    def of(cls, rows: Rows) -> Self | None:
        shy = np.array([isinstance(c, ShyConfig) and c.shyness > 0 for c in rows.configs])
        return cls(shy[:, None]) if shy.any() else None

    def __call__(self, scores: Floats, ids: Ids) -> tuple[Floats, Ids]:
        scores[self._rows & (np.arange(scores.shape[1]) >= 2)] = -np.inf
        return scores, ids


@pytest.mark.parametrize("top_k", [0, 9])
def test_a_warper(monkeypatch: pytest.MonkeyPatch, top_k: int) -> None:
    """It acts where a top-k bounds what is kept, and where none does."""
    monkeypatch.setattr(warpers, "WARPERS", [*warpers.WARPERS, ShyWarper])
    config = ShyConfig(do_sample=True, temperature=9.0, top_k=top_k).override({"shyness": 1})
    logits = np.linspace(0, -1, 40, dtype=np.float32)[None]
    scores = Scores(logits[:, :16], np.arange(16)[None], HostLogits(logits))
    state = SamplerState(config, (), random_stream(1, 0), np.array([1]), 1, 9)
    drawn = {Sampler().choose(scores, [state])[0] for _ in range(200)}
    assert drawn == {0, 1}


def test_the_command_line_has_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "GenerationConfig", ShyConfig)

    @click.command(cls=options.GroupedCommand)
    @options.setting_options
    def command(**settings: object) -> None:
        click.echo(options.given_settings(settings))

    assert CliRunner().invoke(command, ["--shyness", "3"]).output == "{'shyness': 3}\n"
    assert "Ids below this are not said." in CliRunner().invoke(command, ["--help"]).output
