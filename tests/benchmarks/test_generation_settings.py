"""Repetition in known texts, and the table of settings on the demo model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from gpt2ja_bench.making.generation_settings import (
    main,
    measure_person,
    measure_settings,
    stretches,
)
from gpt2ja_bench.making.repetition import looping_word, repeated_ngrams
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.errors import BenchmarkError
from tests.conftest import SAMPLE

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("ids", "size", "expected"),
    [
        ([1, 2, 3, 4, 5], 2, 0.0),
        ([1, 2, 1, 2, 1, 2], 2, 3 / 5),
        ([7] * 11, 4, 7 / 8),
        ([1, 2, 3], 4, 0.0),
        ([], 4, 0.0),
    ],
)
def test_share_of_repeated_ngrams(ids: list[int], size: int, expected: float) -> None:
    assert repeated_ngrams(ids, size) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["寺院", "や", "▁寺院", "の", "寺院", "の", "寺院"], "寺院"),
        (["寺院", "や", "寺院", "の", "寺院"], None),  # three times
        (["の", "、"] * 20, None),  # no words
        (["年に", "100"] * 3 + ["100"] * 9, None),  # a number
        ([*"あいうえおかきくけこさし", "寺院"] * 4, None),  # far apart
        ([*"あいうえおかきくけこ", *["お寺"] * 4], "お寺"),
        ([], None),
    ],
)
def test_a_word_that_a_text_falls_into(pieces: list[str], expected: str | None) -> None:
    assert looping_word(pieces) == expected


@pytest.fixture(scope="module")
def demo() -> Iterator[GPT2Ja]:
    with GPT2Ja.load() as model:
        yield model


def test_figures_tell_loops_from_a_persons_text(demo: GPT2Ja) -> None:
    texts = stretches(demo, SAMPLE, 4, 16 + 64)
    assert [len(ids) for ids in texts] == [80] * 4
    assert SAMPLE.read_text().startswith(demo.tokenizer.decode(texts[0])[:20])
    person = measure_person(demo, texts)
    assert person.loops == 0
    assert person.repeated < 0.05
    cold, warm = (measure_settings(demo, texts, value, 1.0, 1.0) for value in (0.01, 1.0))
    assert cold.repeated > 0.3 > warm.repeated
    assert cold.perplexity < warm.perplexity
    assert measure_settings(demo, texts, 0.01, 1.0, 1.5).repeated < cold.repeated
    assert measure_settings(demo, texts, 1.0, 1.0, 1.0) == warm


def test_a_text_that_is_too_short(demo: GPT2Ja) -> None:
    with pytest.raises(BenchmarkError, match="fewer than 5000 tokens behind line 0; give a longer"):
        stretches(demo, SAMPLE, 1, 5000)


def test_the_command_prints_a_row_for_each_choice() -> None:
    arguments = [str(SAMPLE), "--prompts", "2", "--tokens", "8", "--top-p", "0.9"]
    result = CliRunner().invoke(main, [*arguments, "--temperature", "0.5", "--temperature", "1"])
    assert result.exit_code == 0
    lines = result.output.strip().splitlines()
    assert lines[0].startswith("| temperature | top_p | repetition_penalty | rep-4, %")
    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        ["| a person", "", ""],
        *([f"| {t}", "0.9", p] for t in ("0.5", "1.0") for p in ("1.0", "1.1")),
    ]
    failed = CliRunner().invoke(main, [str(SAMPLE), "--tokens", "9999"])
    assert failed.exit_code == 1
    assert "give a longer text or lower --prompts" in failed.output
