"""Whether two sets of samples differ by more than their own spread."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

# Student's t for two-sided 99 %, by degrees of freedom from 1; beyond, that of 30 is used.
_STUDENT = (
    *(63.66, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169),
    *(3.106, 3.055, 3.012, 2.977, 2.947, 2.921, 2.898, 2.878, 2.861, 2.845),
    *(2.831, 2.819, 2.807, 2.797, 2.787, 2.779, 2.771, 2.763, 2.756, 2.750),
)


@dataclass(frozen=True, slots=True)
class RelativeChange:
    """A change in percent with its interval, infinite where too few samples tell no noise."""

    percent: float
    low: float
    high: float


def relative_change(old: Sequence[float], new: Sequence[float]) -> RelativeChange:
    """By how many percent positive samples rose, with the interval of 99 % confidence.

    The change is the ratio of the geometric means; its interval is that of Welch's t (1947) on the
    samples' logarithms, as Georges, Buytaert and Eeckhout advise for few samples (Statistically
    Rigorous Java Performance Evaluation, 2007, section 3.2). It is one of 99 % and not of 95 %, as
    a report has a hundred of them.
    """
    before, after = np.log(old), np.log(new)
    change = float(after.mean() - before.mean())
    margin = _margin(before, after)
    return RelativeChange(*map(_percent, (change, change - margin, change + margin)))


def _margin(before: np.ndarray, after: np.ndarray) -> float:
    if len(before) < 2 or len(after) < 2:
        return math.inf
    errors = [float(values.var(ddof=1)) / len(values) for values in (before, after)]
    total = sum(errors)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(
        error**2 / (len(values) - 1) for error, values in zip(errors, (before, after), strict=True)
    )
    student = _STUDENT[min(max(1, math.floor(freedom)), len(_STUDENT)) - 1]
    return student * math.sqrt(total)


def _percent(log: float) -> float:
    return math.inf if math.isinf(log) and log > 0 else 100 * math.expm1(log)
