"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2ja_bench.reporting.statistics import Estimate

NONE = "—"


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits and thousands apart, never an exponent."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(0, decimals), 6)}f}"


def signed_percent(value: float | None) -> str:
    """A change in percent with its sign; the tiniest ones as what they are below."""
    if value is None or not math.isfinite(value):
        return NONE
    if abs(value) < 0.0005:
        return "±0 %"
    return f"{'+' if value > 0 else '−'}{significant(abs(value), 2)} %"


def with_interval(estimate: Estimate | None, scale: float = 1) -> str:
    """A median with its interval of 95 % confidence: ``5.90 [5.81–6.02]``."""
    if estimate is None:
        return NONE
    low, high = significant(estimate.low * scale), significant(estimate.high * scale)
    value = significant(estimate.value * scale)
    return value if low == high == value else f"{value} [{low}–{high}]"


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds, without the unit."""
    return significant(None if seconds is None else seconds * 1e3)


def megabytes(size: int) -> str:
    """Bytes on disk as MB, without the unit."""
    return significant(size / 1e6) if size else NONE


def mebibytes(size: int) -> str:
    """Bytes of memory as MiB, without the unit."""
    return significant(size / 2**20) if size else NONE


def span(seconds: float) -> str:
    """A long duration in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
