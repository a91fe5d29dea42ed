"""What got faster or slower from one report to another, beyond the noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gpt2ja_bench.report import BASELINE
from gpt2ja_bench.reporting import statistics
from gpt2ja_bench.reporting.noise import RelativeChange, relative_change
from gpt2ja_onnx.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpt2ja_bench.report import EngineReport, Report, Workload

Verdict = Literal["same", "faster", "slower", "unsure", "regression"]


@dataclass(frozen=True, slots=True)
class Change:
    """A speed of an engine on a workload, in two reports.

    Attributes:
        workload: Empty where the engine as a whole is meant.
        measure: What was compared: ``step``, ``first token``, ``call``, ``start``, ``load``, or
            ``result`` where the new report has none to rely on.
        change: Of the speed, in percent: -20 is a fifth fewer steps, tokens or starts a second.
        verdict: ``same`` within the noise; ``faster`` and ``slower`` beyond it; ``regression``
            if slower by more than the threshold, failed or wrong now; ``unsure`` without noise
            to hold the change against.
        reason: In words, for a ``result``.
    """

    engine: str
    workload: str
    measure: str
    change: RelativeChange | None
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two reports side by side.

    Attributes:
        warnings: Why the speeds themselves do not compare; then `changes` are of their ratios to
            PyTorch in the same round.
        as_ratios: Whether that is so.
        skipped: What only one of the reports has, in words.
    """

    warnings: tuple[str, ...]
    as_ratios: bool
    changes: tuple[Change, ...]
    skipped: tuple[str, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The changes that a caller should fail on."""
        return tuple(change for change in self.changes if change.verdict == "regression")


def compare(old: Report, new: Report, threshold: float = 5.0) -> Comparison:
    """Hold every speed of a report against that of an older one.

    A change is beyond the noise if the interval of `relative_change` does not hold 0. What varies
    from run to run, but not within one, is not in that interval: the threshold is for that.

    Args:
        old: The report to compare with.
        new: The report in question.
        threshold: Percent by which a speed may fall before it is a regression.

    Raises:
        BenchmarkError: The reports have nothing in common that can be compared.
    """
    warnings = tuple(_differences(old, new))
    engines = {engine.id: engine for engine in old.engines}
    changes: list[Change] = []
    skipped = [
        f"what the {name} report lacks, as it is partial"
        for name, report in (("old", old), ("new", new))
        if not report.complete
    ]
    for engine in new.engines:
        if engine.id not in engines:
            skipped.append(f"{engine.id} is new")
            continue
        if engine.status == "skipped" and engines[engine.id].status == "ok":
            skipped.append(f"{engine.id} was skipped: {engine.reason}")
        changes += _of_engine(old, new, engines[engine.id], engine, threshold, bool(warnings))
    skipped += [f"{name} is gone" for name in engines if name not in {e.id for e in new.engines}]
    skipped += _other_workloads(old, new)
    if not changes:
        raise BenchmarkError(
            "the reports have no engine and workload in common that can be compared"
            + (f", once the ratios to {BASELINE} are taken" if warnings else "")
        )
    return Comparison(warnings, bool(warnings), tuple(changes), tuple(skipped))


def _differences(old: Report, new: Report) -> Iterator[str]:
    pairs = {
        "machines": (old.machine.name, new.machine.name),
        "cores": (old.machine.cores, new.machine.cores),
        "devices": (old.settings.device, new.settings.device),
        "threads": (old.settings.threads, new.settings.threads),
        "checkpoints": (old.settings.checkpoint, new.settings.checkpoint),
        "model shapes": (old.settings.shape, new.settings.shape),
        "sampling settings": (old.settings.sampling, new.settings.sampling),
    }
    for what, (before, after) in pairs.items():
        if before != after:
            yield f"different {what}: {_plain(before)} and {_plain(after)}"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return str(value)


def _other_workloads(old: Report, new: Report) -> Iterator[str]:
    before = {workload.id: workload for workload in old.workloads}
    after = {workload.id: workload for workload in new.workloads}
    for name in [*before, *(name for name in after if name not in before)]:
        if name not in after:
            yield f"workload {name} is gone"
        elif name not in before:
            yield f"workload {name} is new"
        elif not _alike(before[name], after[name]):
            yield f"workload {name} has other lengths or rows now"


def _alike(workload: Workload, other: Workload) -> bool:
    return all(
        getattr(workload, name) == getattr(other, name)
        for name in (
            "kind",
            "rows",
            "prompt_tokens",
            "new_tokens",
            "requests",
            "shared_prompt",
            "rates",
        )
    )


def _of_engine(
    old: Report,
    new: Report,
    before: EngineReport,
    after: EngineReport,
    threshold: float,
    as_ratios: bool,
) -> Iterator[Change]:
    broken = _broken(before, after)
    if broken:
        yield _result(after.id, "", broken)
    if before.status != "ok" or after.status != "ok":
        return
    if not as_ratios and before.load and after.load:
        loads = [[1 / seconds for seconds in engine.load] for engine in (before, after)]
        yield _change(after.id, "", "load", loads, threshold)
    known = {workload.id: workload for workload in old.workloads}
    for workload in new.workloads:
        if workload.id in known and _alike(known[workload.id], workload):
            yield from _of_workload(old, new, after.id, workload, threshold, as_ratios)


def _broken(before: EngineReport, after: EngineReport) -> str:
    if before.status == "ok" and after.status == "failed":
        return f"failed now: {after.reason}"
    if after.status == "ok" and statistics.is_wrong(after) and not statistics.is_wrong(before):
        return "its output is not PyTorch's any more"
    return ""


def _of_workload(
    old: Report, new: Report, engine: str, workload: Workload, threshold: float, as_ratios: bool
) -> Iterator[Change]:
    before = statistics.find_result(old, engine, workload.id)
    after = statistics.find_result(new, engine, workload.id)
    if before is None or after is None or before.status != "ok":
        return
    if after.status == "failed":
        yield _result(engine, workload.id, f"failed now: {after.reason}")
        return
    speeds = [_speeds(report, engine, workload, as_ratios) for report in (old, new)]
    steps = all("step" in found for found in speeds)
    for measure in ("step", "first token", "call", "start"):
        # A call is its first token and its steps: compared only where those are not told.
        if (measure == "call" and steps) or not all(found.get(measure) for found in speeds):
            continue
        yield _change(engine, workload.id, measure, [s[measure] for s in speeds], threshold)


def _speeds(
    report: Report, engine: str, workload: Workload, as_ratios: bool
) -> dict[str, list[float]]:
    """Speeds of an engine by measure, divided by the baseline's of the same round if asked."""
    result = statistics.find_result(report, engine, workload.id)
    found = statistics.measures(result, workload.kind) if result else {}
    if not as_ratios:
        return found
    baseline = statistics.find_result(report, BASELINE, workload.id)
    if baseline is None or engine == BASELINE:
        return {}
    others = statistics.measures(baseline, workload.kind)
    return {
        measure: [speed / other for speed, other in zip(speeds, others[measure], strict=False)]
        for measure, speeds in found.items()
        if measure in others
    }


def _change(
    engine: str, workload: str, measure: str, speeds: Sequence[Sequence[float]], threshold: float
) -> Change:
    old, new = speeds
    found = relative_change(old, new)
    if math.isinf(found.high):
        verdict: Verdict = "unsure"
    elif found.low <= 0 <= found.high:
        verdict = "same"
    elif found.percent > 0:
        verdict = "faster"
    else:
        verdict = "regression" if found.percent < -threshold else "slower"
    return Change(engine, workload, measure, found, verdict)


def _result(engine: str, workload: str, reason: str) -> Change:
    return Change(engine, workload, "result", None, "regression", reason)
