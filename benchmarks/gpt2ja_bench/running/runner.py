"""Runs engines side by side: one after another in every round, and writes the report."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2ja_bench.report import REPORT_FILE, Report, Result, Settings, write_report
from gpt2ja_bench.reporting.growth import fastest_peers
from gpt2ja_bench.reporting.serving import within_limits
from gpt2ja_bench.reporting.statistics import is_ours
from gpt2ja_bench.running import machine
from gpt2ja_bench.running.contestant import Contestant
from gpt2ja_bench.running.engines.base import TOP_K, TOP_P
from gpt2ja_bench.running.serving.servers import missing
from gpt2ja_onnx.errors import BenchmarkError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpt2ja_bench.report import Rates, Status, Workload
    from gpt2ja_bench.running.engines.spec import EngineSpec
    from gpt2ja_bench.running.stage import Stage
    from gpt2ja_bench.running.workloads import Plan

# Of an engine, in the seconds of `Plan`; and of the call that warms up, as a part of a timed one.
_PREPARE_COST, _WARM_UP_COST = 19.0, 0.3
_TIMED = (
    "An engine's own call from token ids to token ids, sampling included; text is neither encoded "
    "nor decoded outside of it. Engines take turns in processes of their own, and those that wait "
    "are stopped. A decoding step is the time between two tokens of the whole batch."
)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What to run.

    Attributes:
        engines: In the order of the report; the first one is the baseline.
        plans: Workloads and how often.
        stage: What the engines have in common.
        checkpoint_name: For the report.
        quick: For the report.
    """

    engines: tuple[EngineSpec, ...]
    plans: tuple[Plan, ...]
    stage: Stage
    checkpoint_name: str
    quick: bool

    @property
    def cost(self) -> float:
        """The sum of the costs that `Runner` will report as finished."""
        calls = sum(
            self.expected(plan)
            * plan.cost
            * (1 if plan.workload.kind == "serve" else plan.rounds + _WARM_UP_COST)
            for plan in self.plans
        )
        return len(self.engines) * _PREPARE_COST + calls

    def expected(self, plan: Plan) -> int:
        """How many engines should run a plan."""
        if plan.workload.kind == "serve":
            return sum(bool(spec.server) for spec in self.engines)
        ours = sum(spec.id.startswith("ours") for spec in self.engines)
        others = len(self.engines) - ours
        peers = plan.workload.peers
        return ours + (others if peers is None else min(peers, others))


class Runner:
    """One run.

    Args:
        settings: What to run.
        output: Directory of ``report.json``, which is written again after every workload.
        finished: Called with the name and the cost of what was done.
    """

    def __init__(
        self, settings: RunSettings, output: Path, finished: Callable[[str, float], None]
    ) -> None:
        self._settings = settings
        self._output = output
        self._finished = finished
        self._contestants: list[Contestant] = []
        self._results: list[Result] = []
        self._rates: list[Rates] = []
        self._report: Report | None = None
        self._started = time.monotonic()

    def run(self) -> Report:
        """Measure everything; an interrupt leaves a partial report and is raised again.

        Raises:
            OutputError: The output directory cannot be written.
            BenchmarkError: The baseline cannot run, so there is nothing to compare with.
        """
        check_writable(self._output)
        self._machine = machine.measure(self._settings.stage.threads)
        with tempfile.TemporaryDirectory(prefix="gpt2ja-bench.") as directory:
            try:
                self._prepare(Path(directory))
                for plan in self._settings.plans:
                    serves = plan.workload.kind == "serve"
                    self._results += self._serve(plan) if serves else self._measure(plan)
                    self._report = self._write(complete=False)
            except KeyboardInterrupt:
                self._write(complete=False)
                raise
            finally:
                for contestant in self._contestants:
                    contestant.close()
        # Others may have had the processor when it was measured first.
        again = machine.measure(self._settings.stage.threads)
        self._machine = machine.with_higher_rates(self._machine, again)
        return self._write(complete=True)

    def _prepare(self, directory: Path) -> None:
        reference = None
        for spec in self._settings.engines:
            home = directory / spec.id
            home.mkdir()
            contestant = Contestant(spec, self._settings.stage, home)
            answer = contestant.prepare(reference)
            if not self._contestants:
                reference = answer
                if contestant.report.status != "ok":
                    raise BenchmarkError(
                        f"the baseline {spec.title} cannot run: {contestant.report.reason}"
                    )
            self._contestants.append(contestant)
            self._finished(spec.title, _PREPARE_COST)

    def _measure(self, plan: Plan) -> list[Result]:
        """The engines on one workload, in turns; the first round warms up."""
        runnable = self._runnable(plan.workload)
        results = [Result(c.spec.id, plan.workload.id, "ok") for c in runnable]
        for round_ in range(plan.rounds + 1):
            cost = plan.cost * (_WARM_UP_COST if round_ == 0 else 1)
            if round_ > 0 and plan.workload.kind == "generate":
                threads = self._settings.stage.threads
                self._rates.append(machine.measure_again(plan.workload.id, threads))
            for index, contestant in enumerate(runnable):
                if results[index].status == "ok":
                    results[index] = _turn(contestant, plan, results[index], round_)
                self._finished(f"{plan.workload.title}: {contestant.spec.title}", cost)
            self._finished("", cost * (self._settings.expected(plan) - len(runnable)))
        return results

    def _serve(self, plan: Plan) -> list[Result]:
        """The servers, in turns at each rate, until they cannot keep up."""
        workload = plan.workload
        runnable = [c for c in self._contestants if c.report.status == "ok" and c.spec.server]
        results = [_serve_result(contestant, workload) for contestant in runnable]
        cost = plan.cost / len(workload.rates)
        for rate in workload.rates:
            for index, contestant in enumerate(runnable):
                if _keeps_up(results[index]):
                    results[index] = _serve_turn(contestant, workload, rate, results[index])
                self._finished(f"{workload.title}, {rate:g}/s: {contestant.spec.title}", cost)
            self._finished("", cost * (self._settings.expected(plan) - len(runnable)))
        return results

    def _runnable(self, workload: Workload) -> list[Contestant]:
        """Every engine that works, or this project's and the fastest of the others so far."""
        runnable = [c for c in self._contestants if c.report.status == "ok"]
        if workload.peers is None or self._report is None:
            return runnable
        peers = fastest_peers(self._report, workload.rows, workload.peers)
        if not peers:
            return runnable
        return [c for c in runnable if is_ours(c.report) or c.spec.id in peers]

    def _write(self, *, complete: bool) -> Report:
        settings, stage = self._settings, self._settings.stage
        packages = {package for spec in settings.engines for package in spec.packages}
        packages |= {"numpy", "onnxruntime", "onnxruntime-gpu"}
        found = {d.name: d.version for d in distributions() if d.name in packages}
        report = Report(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            complete=complete,
            seconds=time.monotonic() - self._started,
            machine=self._machine,
            settings=Settings(
                quick=settings.quick,
                repeats=max(plan.rounds for plan in settings.plans),
                threads=stage.threads,
                device=stage.device,
                sampling={"do_sample": True, "top_k": TOP_K, "top_p": TOP_P, "temperature": 1.0},
                checkpoint=settings.checkpoint_name,
                shape=stage.shape.as_dict(),
                parameters=stage.shape.parameters,
                timed=_TIMED,
            ),
            versions=dict(sorted(found.items())),
            engines=tuple(contestant.report for contestant in self._contestants),
            workloads=tuple(plan.workload for plan in settings.plans),
            results=tuple(self._results),
            rates=tuple(self._rates),
        )
        write_report(self._output / REPORT_FILE, report)
        return report


def check_writable(directory: Path) -> None:
    """Make the directory and write to it, before minutes are spent.

    Raises:
        OutputError: It cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise OutputError(f"{directory}: cannot be written: {error.strerror}") from error


def _turn(contestant: Contestant, plan: Plan, result: Result, round_: int) -> Result:
    """The result with one more sample, or with what went wrong."""
    try:
        sample, memory = contestant.turn(plan.workload, round_)
    except NotImplementedError:
        return replace(result, status="skipped", reason="the engine has no such call")
    except BenchmarkError as error:
        return replace(result, status="failed", reason=str(error))
    if round_ == 0:
        return result
    return replace(
        result,
        samples=(*result.samples, sample),
        peak_memory=max(result.peak_memory, memory),
    )


def _serve_result(contestant: Contestant, workload: Workload) -> Result:
    reason = missing(contestant.spec)
    status: Status = "ok" if reason is None else "skipped"
    return Result(contestant.spec.id, workload.id, status, reason or "")


def _serve_turn(contestant: Contestant, workload: Workload, rate: float, result: Result) -> Result:
    """The result with one more rate, or with what went wrong at it."""
    try:
        served, memory = contestant.serve(workload, rate)
    except BenchmarkError as error:
        return replace(result, status="failed", reason=f"at {rate:g} requests a second: {error}")
    return replace(
        result,
        served=(*result.served, served),
        peak_memory=max(result.peak_memory, memory),
    )


def _keeps_up(result: Result) -> bool:
    """Whether a higher rate could still tell something."""
    return result.status == "ok" and all(within_limits(s) >= 0.5 for s in result.served)
