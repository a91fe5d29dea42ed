"""What is derived from a report's samples: medians, percentiles, ratios and floors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_bench.report import BASELINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt2ja_bench.report import EngineReport, Machine, Report, Result, Workload

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
    medians = [float(np.median(sample.steps)) for sample in result.samples if sample.steps]
    return _median(medians) if medians else None


def first_token(result: Result) -> Estimate | None:
    """Seconds until every row has its first token."""
    times = [s.first_token for s in result.samples if s.first_token is not None]
    return _median(times) if times else None


def throughput(result: Result) -> Estimate | None:
    """Tokens a second of whole calls, first tokens included."""
    rates = [sample.tokens / sample.seconds for sample in result.samples]
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
        return [1 / float(np.median(s.steps)) for s in result.samples if s.steps]
    if kind == "cold_start":
        return [1 / sample.seconds for sample in result.samples]
    return [sample.tokens / sample.seconds for sample in result.samples]


def ratio(result: Result, baseline: Result, kind: str) -> Estimate | None:
    """How many times as fast as the baseline, from samples of the same rounds.

    The interval is a percentile bootstrap of the median ratio (Efron, 1979) over the rounds: the
    engines of a round ran one after another, so what slowed the machine slowed them alike.
    """
    pairs = zip(speed_samples(result, kind), speed_samples(baseline, kind), strict=False)
    ratios = [ours / theirs for ours, theirs in pairs]
    return _median(ratios) if ratios else None


def baseline_ratio(report: Report, result: Result) -> Estimate | None:
    """`ratio` to the report's baseline on the same workload, if that was measured."""
    workload = next(w for w in report.workloads if w.id == result.workload)
    for other in report.results:
        if other.engine == BASELINE and other.workload == result.workload:
            return ratio(result, other, workload.kind)
    return None


def floor(machine: Machine, engine: EngineReport, workload: Workload) -> float | None:
    """The least seconds of a decoding step that the machine allows.

    The larger of reading the weights once and of the batch's arithmetic at the fp32 matrix rate
    (Williams, Waterman, Patterson: Roofline, 2009). For integer weights the arithmetic of the
    machine is faster than its fp32 rate, so only the reading counts there.
    """
    if workload.kind != "generate" or not engine.weight_bytes:
        return None
    reading = engine.weight_bytes / machine.bandwidth
    if engine.precision not in ("fp32", "fp16"):
        return reading
    return max(reading, workload.rows * engine.step_operations / machine.matrix_rate)


def _median(values: Sequence[float]) -> Estimate:
    array = np.asarray(values)
    if len(array) < 2:
        return Estimate(*[float(array[0])] * 3)
    random = np.random.default_rng(0)
    medians = np.median(random.choice(array, (_RESAMPLES, len(array))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return Estimate(float(np.median(array)), float(low), float(high))
