"""`bench compare` finds what changed, and only that."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from gpt2ja_bench.cli_reports import compare_command, pages_command
from gpt2ja_bench.report import write_report
from gpt2ja_bench.reporting.compare import compare
from gpt2ja_bench.reporting.noise import relative_change
from gpt2ja_onnx.errors import BenchmarkError
from tests.benchmarks.reports import make_report

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_bench.report import Report


def on_another_machine(report: Report) -> Report:
    """The same ratios on a machine of half the speed."""
    results = []
    for result in report.results:
        samples = tuple(
            dataclasses.replace(
                sample,
                seconds=2 * sample.seconds,
                first_token=2 * sample.first_token if sample.first_token else None,
                steps=tuple(2 * step for step in sample.steps),
            )
            for sample in result.samples
        )
        results.append(dataclasses.replace(result, samples=samples))
    machine = dataclasses.replace(report.machine, name="another")
    return dataclasses.replace(report, machine=machine, results=tuple(results))


def changed(report: Report, engine: str, **values: object) -> Report:
    engines = tuple(
        dataclasses.replace(each, **values) if each.id == engine else each  # type: ignore[arg-type]
        for each in report.engines
    )
    return dataclasses.replace(report, engines=engines)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(
        compare_command, [str(argument) for argument in arguments], standalone_mode=False
    )
    if result.exception:
        raise result.exception
    return result.return_value, result.output


def test_a_planted_regression_is_found() -> None:
    comparison = compare(make_report(seed=1), make_report(seed=2, slower={"ours-int8": 1.2}))
    assert {change.engine for change in comparison.regressions} == {"ours-int8"}
    steps = {c.workload: c.change for c in comparison.regressions if c.measure == "step"}
    assert set(steps) == {
        *("interactive", "batch-8", "batch-32", "batch-64", "batch-256"),
        *("long-prompt", "shared", "long-texts"),
    }
    for change in steps.values():
        assert change
        assert change.low < 100 * (1 / 1.2 - 1) < change.high
    others = {(c.workload, c.measure) for c in comparison.regressions}
    assert others >= {("queue", "call"), ("score", "call"), ("cold-start", "start")}


def test_noise_is_no_change() -> None:
    changes = [
        change
        for seed in range(5)
        for change in compare(make_report(seed=seed), make_report(seed=50 + seed)).changes
    ]
    assert len(changes) > 800
    assert not [change for change in changes if change.verdict == "regression"]
    # One in a hundred may lie outside of its interval of 99 %.
    assert sum(change.verdict != "same" for change in changes) <= 0.02 * len(changes)


def test_what_is_faster_or_slower_by_little_is_no_regression() -> None:
    old, new = (
        make_report(noise=0.001),
        make_report(noise=0.001, seed=1, slower={"ours-int8": 1.03, "ours-int4": 0.9}),
    )
    comparison = compare(old, new)
    verdicts = {(c.engine, c.verdict) for c in comparison.changes if c.measure == "step"}
    assert {("ours-int8", "slower"), ("ours-int4", "faster")} <= verdicts
    assert not comparison.regressions
    assert compare(old, new, threshold=1).regressions


def test_another_machine_is_compared_by_ratios() -> None:
    old = make_report(seed=3)
    slow = on_another_machine(make_report(seed=4))
    comparison = compare(old, slow)
    assert comparison.as_ratios
    assert "different machines: AMD EPYC 9V74 80-Core Processor and another" in comparison.warnings
    assert not comparison.regressions
    assert "torch" not in {change.engine for change in comparison.changes}
    worse = on_another_machine(make_report(seed=4, slower={"ours-int8": 1.3}))
    assert {c.engine for c in compare(old, worse).regressions} == {"ours-int8"}


def test_failed_and_wrong_now_are_regressions(noisy: Report) -> None:
    check = next(engine.check for engine in noisy.engines if engine.id == "ours-int8")
    assert check
    wrong = changed(noisy, "ours-int8", check=dataclasses.replace(check, passed=False))
    failed = changed(noisy, "ours-int4", status="failed", reason="ended by signal 11")
    assert [c.reason for c in compare(noisy, wrong).regressions] == [
        "its output is not PyTorch's any more"
    ]
    assert [c.reason for c in compare(noisy, failed).regressions] == [
        "failed now: ended by signal 11"
    ]
    skipped = changed(noisy, "llamacpp-f32", status="skipped", reason="not installed")
    comparison = compare(noisy, skipped)
    assert not comparison.regressions
    assert "llamacpp-f32 was skipped: not installed" in comparison.skipped


def test_other_workloads_are_not_compared(noisy: Report) -> None:
    shorter = tuple(
        dataclasses.replace(w, new_tokens=8) if w.id == "batch-8" else w for w in noisy.workloads
    )
    comparison = compare(noisy, dataclasses.replace(noisy, workloads=shorter))
    assert "batch-8" not in {change.workload for change in comparison.changes}
    assert "workload batch-8 has other lengths or rows now" in comparison.skipped


def test_one_sample_tells_no_noise() -> None:
    comparison = compare(make_report(repeats=1), make_report(repeats=1, slower={"ours-int8": 2}))
    assert not comparison.regressions
    assert {c.verdict for c in comparison.changes if c.measure == "step"} == {"unsure"}


def test_nothing_in_common(noisy: Report) -> None:
    with pytest.raises(BenchmarkError, match="no engine and workload in common"):
        compare(noisy, dataclasses.replace(noisy, engines=(), results=()))


def test_the_interval_is_welchs() -> None:
    # By hand: means 0 and 0.1, both variances 0.0001, 3 samples each: t of 4 degrees is 4.604.
    old = [math.exp(x) for x in (-0.01, 0, 0.01)]
    new = [math.exp(x) for x in (0.09, 0.1, 0.11)]
    found = relative_change(old, new)
    margin = 4.604 * math.sqrt(0.0002 / 3)
    assert found.percent == pytest.approx(100 * math.expm1(0.1))
    assert found.low == pytest.approx(100 * math.expm1(0.1 - margin))
    assert found.high == pytest.approx(100 * math.expm1(0.1 + margin))


def test_the_command(tmp_path: Path) -> None:
    for name, slower in {"old": {}, "new": {"ours-int8": 1.2}}.items():
        (tmp_path / name).mkdir()
        write_report(tmp_path / name / "report.json", make_report(seed=5, slower=slower))
    code, output = run(tmp_path / "old", tmp_path / "new" / "report.json")
    assert code == 1
    assert "REGRESSION" in output
    assert "−17 %" in output
    assert run(tmp_path / "old", tmp_path / "new", "--threshold", "25")[0] == 0
    code, output = run(tmp_path / "old", tmp_path / "old")
    assert code == 0
    assert "0 faster, 0 slower" in output
    with pytest.raises(BenchmarkError, match="cannot be read"):
        run(tmp_path / "old", tmp_path / "missing")


def test_the_pages_command(report_file: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        pages_command, [str(report_file), "--output", str(tmp_path / "pages")]
    )
    assert result.exit_code == 0, result.output
    written = {path.name for path in (tmp_path / "pages").iterdir()}
    assert written == {"report.md", "report.html"}
