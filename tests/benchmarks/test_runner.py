"""A run over engines that fail in every way still ends in a report that says so."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gpt2ja_bench.report import (
    BASELINE,
    REPORT_FILE,
    EngineReport,
    Report,
    Result,
    Workload,
    read_report,
)
from gpt2ja_bench.reporting.statistics import baseline_ratio
from gpt2ja_bench.running.checks import passes
from gpt2ja_bench.running.contestant import new_process_environment
from gpt2ja_bench.running.engines.spec import EngineSpec
from gpt2ja_bench.running.runner import Runner, RunSettings
from gpt2ja_bench.running.shape import Shape
from gpt2ja_bench.running.stage import Stage
from gpt2ja_bench.running.workloads import PLANS, Plan, job, warm_up
from gpt2ja_onnx.bundle.demo import demo_checkpoint
from gpt2ja_onnx.errors import BenchmarkError, OutputError

if TYPE_CHECKING:
    from pathlib import Path

GENERATE = Plan(Workload("two", "Two rows", "generate", 2, 4, 6, 2), 2, 1)
SCORE = Plan(Workload("score", "Texts", "score", 2, 8, 0, 3), 1, 1)
QUEUE = Plan(Workload("queue", "Queue", "queue", 2, 4, 36, 5), 1, 1)


def spec(name: str, behaviour: str, packages: tuple[str, ...] = ("numpy",)) -> EngineSpec:
    kind = "tests.benchmarks.fake_engines:Fake"
    return EngineSpec(name, name, kind, behaviour, 8, packages, "bench")


def settings(*engines: EngineSpec, plans: tuple[Plan, ...] = (GENERATE,)) -> RunSettings:
    demo = demo_checkpoint()
    stage = Stage(demo, demo, Shape.read(demo), 1, "cpu", time_limit=8)
    return RunSettings((spec(BASELINE, "slow"), *engines), plans, stage, "fake", quick=True)


def run(output: Path, *engines: EngineSpec, plans: tuple[Plan, ...] = (GENERATE,)) -> Report:
    return Runner(settings(*engines, plans=plans), output, lambda name, cost: None).run()


def test_no_prompt_begins_like_an_earlier_one_and_lengths_stay() -> None:
    """An engine that keeps what it has computed must not gain by it."""
    jobs = [job(plan.workload, 1000, round_) for plan in PLANS for round_ in range(3)]
    prompts = [{tuple(prompt[:8]) for prompt in one.prompts} for one in jobs]
    assert sum(map(len, prompts)) == len(set.union(*prompts))
    for first, *others in zip(jobs[::3], jobs[1::3], jobs[2::3], strict=True):
        assert all(other.new_tokens == first.new_tokens for other in others)


def test_warming_up_makes_room_for_what_follows() -> None:
    for plan in PLANS:
        if plan.workload.kind == "generate":
            full = job(plan.workload, 1000, 1)
            short = warm_up(full)
            assert max(short.new_tokens) <= 4
            assert short.positions == full.positions
            assert all(batch.positions == full.positions for batch in short.batches())


def test_a_timed_start_finds_bytecode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the variable, a start took 60 ms more: everything was compiled each time."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "started.py").write_text("")
    code = "import started, sys; print(sys.dont_write_bytecode)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=new_process_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "False\n"
    assert list(tmp_path.glob("__pycache__/started.*.pyc"))


def test_engines_take_turns_and_are_compared(tmp_path: Path) -> None:
    report = run(tmp_path, spec("fast", "fast"), plans=(GENERATE, SCORE, QUEUE))
    assert report == read_report(tmp_path / REPORT_FILE)
    assert report.complete
    results = {(result.engine, result.workload): result for result in report.results}
    assert len(results) == 6
    assert all(result.status == "ok" for result in report.results)
    fast = results["fast", "two"]
    assert len(fast.samples) == GENERATE.rounds
    assert [rates.workload for rates in report.rates] == ["two"] * GENERATE.rounds
    assert all(rates.bandwidth > 1e8 for rates in report.rates)
    assert [len(sample.steps) for sample in fast.samples] == [5, 5]
    assert fast.samples[0].tokens == 12
    ratio = baseline_ratio(report, fast)
    assert ratio is not None
    assert ratio.value > 2
    assert results["fast", "score"].samples[0].tokens == 24
    queue = results["fast", "queue"].samples[0]
    assert queue.tokens == results[BASELINE, "queue"].samples[0].tokens
    assert report.engines[1].model_bytes == 1000
    assert report.engines[1].check is not None
    assert report.engines[1].check.passed


def test_only_the_fastest_peers_run_what_takes_long(tmp_path: Path) -> None:
    narrow = Plan(Workload("more", "More rows", "generate", 3, 4, 6, 3, peers=1), 1, 1)
    done: list[float] = []
    chosen = settings(
        spec("fast", "fast", packages=("click",)),
        spec("slow", "slow", packages=("pytest",)),
        spec("ours-slow", "slow", packages=("ruff",)),
        plans=(GENERATE, narrow),
    )
    report = Runner(chosen, tmp_path, lambda name, cost: done.append(cost)).run()
    assert {r.engine for r in report.results if r.workload == "more"} == {"fast", "ours-slow"}
    assert sum(done) == pytest.approx(chosen.cost)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [("dies", "exit code 7"), ("hangs", "no answer within 8 s"), ("cannot convert", "not for me")],
)
def test_an_engine_that_fails_is_a_row_with_its_reason(
    tmp_path: Path, behaviour: str, reason: str
) -> None:
    report = run(tmp_path, spec("bad", behaviour), spec("good", "fast"))
    outcomes: list[EngineReport | Result] = [*report.engines, *report.results]
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert [getattr(outcome, "id", "bad") for outcome in failed] == ["bad"]
    assert reason in failed[0].reason
    assert "\n" not in failed[0].reason
    assert [r.status for r in report.results if r.engine == "good"] == ["ok"]


def test_a_wrong_engine_stands_out_and_missing_calls_are_skipped(tmp_path: Path) -> None:
    report = run(
        tmp_path,
        spec("wrong", "wrong"),
        spec("silent", "no scores"),
        spec("absent", "fast", packages=("no-such-package",)),
        plans=(SCORE,),
    )
    engines = {engine.id: engine for engine in report.engines}
    assert engines["wrong"].check is not None
    assert engines["wrong"].check.greedy_agreement == 0
    assert engines["silent"].check is not None
    assert engines["silent"].check.perplexity is None
    assert engines["absent"].status == "skipped"
    assert "pip install 'gpt2ja-onnx[bench]'" in engines["absent"].reason
    assert {r.engine: r.status for r in report.results}["silent"] == "skipped"


def test_an_interrupt_leaves_a_partial_report(tmp_path: Path) -> None:
    def interrupt(name: str, cost: float) -> None:
        if name.startswith("Texts"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(settings(plans=(GENERATE, SCORE)), tmp_path, interrupt).run()
    report = read_report(tmp_path / REPORT_FILE)
    assert not report.complete
    assert [result.workload for result in report.results] == ["two"]


def test_nothing_is_measured_without_a_baseline_or_a_place_to_write(tmp_path: Path) -> None:
    broken = settings()
    stage, plans = broken.stage, broken.plans
    engines = (spec(BASELINE, "cannot convert"),)
    with pytest.raises(BenchmarkError, match="baseline"):
        Runner(RunSettings(engines, plans, stage, "fake", True), tmp_path, print).run()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        run(tmp_path / "file" / "output")


@pytest.mark.parametrize(
    ("agreement", "change", "exact", "passed"),
    [
        (1, 0.0, True, True),
        (0.9, 0.006, True, True),  # another of two near tokens, once
        (0.5, 0.006, True, False),
        (1, 0.2, True, False),
        (0.9, None, True, False),
        (1, None, True, True),
        (0.1, 11, False, True),  # 4 bits
        (1, 30, False, False),
        (0.2, None, False, False),
        (0.3, None, False, True),
    ],
)
def test_who_says_what_pytorch_says(
    agreement: float, change: float | None, exact: bool, passed: bool
) -> None:
    assert passes(agreement, change, exact=exact) == passed
