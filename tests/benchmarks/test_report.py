"""report.json is read back as it was written, and what is no report is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest

from gpt2ja_bench.report import Sample, read_report, write_report
from gpt2ja_bench.reporting import growth, statistics
from gpt2ja_bench.reporting.markdown import render_markdown
from gpt2ja_onnx.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpt2ja_bench.report import Report, Workload


def find_workload(report: Report, name: str) -> Workload:
    return next(workload for workload in report.workloads if workload.id == name)


def test_what_was_written_is_read(report_file: Path, noisy: Report) -> None:
    assert read_report(report_file) == noisy


def test_a_report_of_version_1_is_read_as_one_without_what_is_new(
    report_file: Path, noisy: Report
) -> None:
    content = json.loads(report_file.read_text())
    content["version"] = 1
    content["workloads"] = [w for w in content["workloads"] if w["kind"] != "serve"]
    content["results"] = [r for r in content["results"] if r["workload"] != "serve"]
    new = {
        "served",
        "rates",
        "seed",
        "integer_rate",
        "kernels",
        "fingerprint",
        "peers",
        "native_calls",
    }
    samples = [sample for result in content["results"] for sample in result["samples"]]
    parts = [content["machine"], *samples]
    for part in parts + content["engines"] + content["workloads"] + content["results"]:
        for name in new & set(part):
            del part[name]
    report_file.write_text(json.dumps(content))
    report = read_report(report_file)
    assert report.machine.integer_rate == 0
    assert report.results[0].samples[0].steps == noisy.results[0].samples[0].steps
    markdown = render_markdown(report)
    assert "| Integer rate, measured | none: not measured |" in markdown
    assert "## This project's kernels" not in markdown
    write_report(report_file, report)
    assert read_report(report_file) == report


def _without_machine(content: dict[str, Any]) -> None:
    del content["machine"]


def _of_unknown_engine(content: dict[str, Any]) -> None:
    content["results"][0]["engine"] = "who"


def _newer(content: dict[str, Any]) -> None:
    content["version"] = 3


def _with_text_for_samples(content: dict[str, Any]) -> None:
    content["results"][0]["samples"] = "none"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (_without_machine, "no whole report: 'machine'"),
        (_of_unknown_engine, "no whole report: results of who"),
        (_newer, "has report version 3, expected 2"),
        (_with_text_for_samples, "no whole report"),
    ],
)
def test_broken_reports(
    report_file: Path, broken: Callable[[dict[str, Any]], None], said: str
) -> None:
    content = json.loads(report_file.read_text())
    broken(content)
    report_file.write_text(json.dumps(content))
    with pytest.raises(BenchmarkError, match=said) as caught:
        read_report(report_file)
    assert str(report_file) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\N{SNOWMAN}"])
def test_files_that_are_no_report(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-16")
    with pytest.raises(BenchmarkError, match=r"report\.json"):
        read_report(path)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BenchmarkError, match=r"report\.json"):
        read_report(path)
    with pytest.raises(BenchmarkError, match="cannot be read"):
        read_report(tmp_path / "missing.json")


def test_ratios_are_of_the_same_round(exact: Report) -> None:
    """A round in which the machine was twice as slow for both leaves the ratio as it is."""
    ours = statistics.find_result(exact, "ours-int8", "batch-8")
    torch = statistics.find_result(exact, "torch", "batch-8")
    assert ours
    assert torch
    slow = [
        dataclasses.replace(
            result,
            samples=(
                *result.samples[:-1],
                *(
                    Sample(s.seconds * 2, s.first_token, tuple(2 * t for t in s.steps), s.tokens)
                    for s in result.samples[-1:]
                ),
            ),
        )
        for result in (ours, torch)
    ]
    ratio = statistics.ratio(slow[0], slow[1], "generate")
    assert ratio
    assert ratio.value == pytest.approx(92.0 / 9.1)
    assert (ratio.low, ratio.high) == pytest.approx((ratio.value, ratio.value))


def test_an_interval_holds_its_median_and_grows_with_the_noise(noisy: Report) -> None:
    result = statistics.find_result(noisy, "ours-int8", "batch-32")
    assert result
    ratio = statistics.baseline_ratio(noisy, result)
    assert ratio
    assert ratio.low < ratio.value < ratio.high
    assert 0.85 < ratio.value / (203 / 22.5) < 1.15


def test_an_engine_without_steps_is_compared_by_whole_calls(exact: Report) -> None:
    result = statistics.find_result(exact, "optimum", "interactive")
    torch = statistics.find_result(exact, "torch", "interactive")
    assert result
    assert torch
    assert statistics.step_time(result) is None
    ratio = statistics.baseline_ratio(exact, result)
    assert ratio
    assert ratio.value == pytest.approx((52 + 95 * 36.1) / (38 + 95 * 21.0))


@pytest.mark.parametrize(
    ("engine", "workload", "milliseconds"),
    [
        ("ours-fp32", "interactive", 440 / 33),  # reading the weights
        ("ours-fp32", "batch-32", 32 * 0.218 / 0.140),  # the arithmetic
        ("ctranslate2-float32", "batch-32", 32 * 0.218 / 0.140),  # the same under another name
        ("ours-int8", "batch-32", 32 * 0.218 / 0.900),  # integers have a rate of their own
        ("ours-int8", "interactive", 112 / 33),
    ],
)
def test_floors(exact: Report, engine: str, workload: str, milliseconds: float) -> None:
    entry = next(e for e in exact.engines if e.id == engine)
    floor = statistics.floor(exact.machine, entry, find_workload(exact, workload))
    assert floor
    assert floor * 1e3 == pytest.approx(milliseconds)


def test_integers_are_held_to_reading_alone_where_their_rate_is_unknown(exact: Report) -> None:
    engine = next(e for e in exact.engines if e.id == "ours-int8")
    machine = dataclasses.replace(exact.machine, integer_rate=0.0)
    floor = statistics.floor(machine, engine, find_workload(exact, "batch-32"))
    assert floor == pytest.approx(0.112 / 33)


def test_peers_are_the_fastest_of_each_library_in_int8(exact: Report) -> None:
    assert growth.fastest_peers(exact, 32, 2) == ["ctranslate2-int8", "llamacpp-q8_0"]
    assert growth.fastest_peers(exact, 1, 1) == ["llamacpp-q8_0"]
    without = tuple(e for e in exact.engines if statistics.bits(e.precision) != 8)
    report = dataclasses.replace(exact, engines=without)
    assert growth.fastest_peers(report, 32, 2) == ["llamacpp-q4_0", "ctranslate2-float32"]
    assert growth.fastest_peers(dataclasses.replace(exact, results=()), 32, 2) == []


def test_steps_by_position_are_where_they_were_measured(exact: Report) -> None:
    """A step of the made-up report takes a thousandth longer with each position."""
    result = statistics.find_result(exact, "ours-int8", "long-texts")
    assert result
    found = growth.steps_by_position(result, find_workload(exact, "long-texts"), 16)
    assert [position for position, _ in found] == sorted({position for position, _ in found})
    assert found[0][0] >= 65
    assert found[-1][0] <= 64 + 320
    for position, seconds in found:
        assert seconds * 1e3 == pytest.approx(22.5 * (1 + (position - 65) / 1000), rel=1e-3)


def test_bits_of_a_weight_from_every_engines_own_words() -> None:
    words = {"fp32": 32, "f32": 32, "bfloat16": 16, "int8_float32": 8, "q8_0": 8, "q4_k_m": 4}
    assert {word: statistics.bits(word) for word in words} == words
    assert statistics.bits("") is None
