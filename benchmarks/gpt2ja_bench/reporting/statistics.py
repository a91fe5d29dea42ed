"""What is derived from a report's samples: medians, percentiles, ratios and floors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_bench.report import BASELINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt2ja_bench.report import Check, EngineReport, Machine, Report, Result, Workload

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median with its interval of 95 % confidence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of decoding steps, in seconds."""

    p50: float
    p95: float
    p99: float


def latency(result: Result) -> Latency | None:
    """Percentiles over the decoding steps of all samples; None without steps."""
    steps = [step for sample in result.samples for step in sample.steps]
    if not steps:
        return None
    return Latency(*(float(p) for p in np.percentile(steps, [50, 95, 99])))


def step_time(result: Result) -> Estimate | None:
    """Median duration of a decoding step, with the interval of the samples' medians."""
    medians = step_times(result)
    return _median(medians) if medians else None


def step_times(result: Result) -> list[float]:
    """Median duration of a decoding step in each round; empty where the engine does not tell."""
    return [float(np.median(sample.steps)) for sample in result.samples if sample.steps]


def first_token(result: Result) -> Estimate | None:
    """Seconds until every row has its first token."""
    times = [s.first_token for s in result.samples if s.first_token is not None]
    return _median(times) if times else None


def throughput(result: Result) -> Estimate | None:
    """Tokens a second of whole calls, first tokens included."""
    rates = _call_speeds(result)
    return _median(rates) if rates else None


def duration(result: Result) -> Estimate | None:
    """Seconds of a whole call."""
    times = [sample.seconds for sample in result.samples]
    return _median(times) if times else None


def speed_samples(result: Result, kind: str) -> list[float]:
    """What ratios compare, one number a sample, larger is faster.

    Steps a second for ``generate``, tokens a second for ``queue`` and ``score``, starts a second
    for ``cold_start``.
    """
    if kind == "generate":
        return [1 / step for step in step_times(result)]
    if kind == "cold_start":
        return [1 / sample.seconds for sample in result.samples]
    return _call_speeds(result)


def measures(result: Result, kind: str) -> dict[str, list[float]]:
    """Every speed of a result by what it is of, one number a sample, larger is faster.

    ``generate`` has ``step`` and ``first token`` where the engine tells them, and ``call``; the
    other kinds have ``call``, or ``start`` for ``cold_start``.
    """
    if kind == "cold_start":
        return {"start": speed_samples(result, kind)}
    if kind != "generate":
        return {"call": _call_speeds(result)}
    found = {
        "step": speed_samples(result, kind),
        "first token": [1 / s.first_token for s in result.samples if s.first_token],
        "call": _call_speeds(result),
    }
    return {name: speeds for name, speeds in found.items() if speeds}


def ratio(result: Result, baseline: Result, kind: str) -> Estimate | None:
    """How many times as fast as the baseline, by `speed_samples` of the same rounds.

    Where one of the two tells no steps, tokens a second of whole calls are compared: see
    `compares_calls`.
    """
    if compares_calls(result, baseline, kind):
        return paired_ratio(_call_speeds(result), _call_speeds(baseline))
    return paired_ratio(speed_samples(result, kind), speed_samples(baseline, kind))


def compares_calls(result: Result, baseline: Result, kind: str) -> bool:
    """Whether `ratio` is one of whole calls although the workload has decoding steps."""
    return kind == "generate" and not all(
        sample.steps for each in (result, baseline) for sample in each.samples
    )


def paired_ratio(speeds: Sequence[float], others: Sequence[float]) -> Estimate | None:
    """Median of the ratios of samples of the same rounds; None without any.

    The interval is a percentile bootstrap of the median ratio (Efron, 1979) over the rounds: the
    engines of a round ran one after another, so what slowed the machine slowed them alike.
    """
    ratios = [speed / other for speed, other in zip(speeds, others, strict=False)]
    return _median(ratios) if ratios else None


def baseline_ratio(report: Report, result: Result) -> Estimate | None:
    """`ratio` to the report's baseline on the same workload, if that was measured."""
    other = find_result(report, BASELINE, result.workload)
    if other is None:
        return None
    workload = next(w for w in report.workloads if w.id == result.workload)
    return ratio(result, other, workload.kind)


def find_result(report: Report, engine: str, workload: str) -> Result | None:
    """What an engine gave on a workload; None if that was not run."""
    for result in report.results:
        if (result.engine, result.workload) == (engine, workload):
            return result
    return None


def batch_ladder(report: Report) -> list[Workload]:
    """The workloads of every engine that differ in their number of rows alone, fewest first."""
    return [workload for workload in row_ladder(report) if workload.peers is None]


def row_ladder(report: Report) -> list[Workload]:
    """`batch_ladder` with the workloads that only the fastest engines ran."""
    alike = [w for w in report.workloads if w.kind == "generate" and not w.shared_prompt]
    if not alike:
        return []
    prompt = min(w.prompt_tokens for w in alike)
    return sorted((w for w in alike if w.prompt_tokens == prompt), key=lambda w: w.rows)


def is_ours(engine: EngineReport) -> bool:
    """Whether an engine is this project."""
    return engine.id.startswith("ours")


def short_name(engine: EngineReport) -> str:
    """An engine's id, as people who do not know this project's ids read it."""
    return engine.id.replace("ours", "gpt2ja-onnx", 1) if is_ours(engine) else engine.id


def is_wrong(engine: EngineReport) -> bool:
    """Whether an engine was held against PyTorch and does not say what PyTorch says."""
    return engine.check is not None and not engine.check.passed


def perplexity_change(check: Check) -> float | None:
    """Percent by which the perplexity is above PyTorch's."""
    if check.perplexity is None:
        return None
    return 100 * (check.perplexity / check.reference_perplexity - 1)


def bits(precision: str) -> int | None:
    """Bits of a weight, from an engine's own word for its precision: 4 for ``q4_0``."""
    found = re.search("32|16|8|4", precision)
    return int(found.group()) if found else None


def floor(machine: Machine, engine: EngineReport, workload: Workload) -> float | None:
    """The least seconds of a decoding step that the machine allows.

    The larger of reading the weights once and of the batch's arithmetic (Williams, Waterman,
    Patterson: Roofline, 2009): at the fp32 matrix rate, and for integer weights at the integer
    rate. Where that was not measured only the reading counts for them.
    """
    if workload.kind != "generate" or not engine.weight_bytes:
        return None
    reading = engine.weight_bytes / machine.bandwidth
    rate = machine.integer_rate if is_integer(engine) else machine.matrix_rate
    return max(reading, workload.rows * engine.step_operations / rate) if rate else reading


def is_integer(engine: EngineReport) -> bool:
    """Whether the weights are integers."""
    return (bits(engine.precision) or 32) < 16


def _call_speeds(result: Result) -> list[float]:
    return [sample.tokens / sample.seconds for sample in result.samples]


def _median(values: Sequence[float]) -> Estimate:
    array = np.asarray(values)
    if len(array) < 2:
        return Estimate(*[float(array[0])] * 3)
    random = np.random.default_rng(0)
    medians = np.median(random.choice(array, (_RESAMPLES, len(array))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return Estimate(float(np.median(array)), float(low), float(high))
