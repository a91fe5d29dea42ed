"""How far a bundle of each precision may be from PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpt2ja_export.verify import Verification
    from gpt2ja_onnx.bundle.manifest import Precision


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the figures of a `Verification`, which says what they are.

    Attributes:
        max_logit_difference: From above; infinite where no bound is meaningful.
        cached_difference: From above.
        batch_difference: From above.
        greedy_agreement: From below.
        top_agreement: From below.
        kl_divergence: From above.
        perplexity_change_percent: Of the change, up or down.
    """

    max_logit_difference: float
    cached_difference: float
    batch_difference: float
    greedy_agreement: float
    top_agreement: float
    kl_divergence: float
    perplexity_change_percent: float


# Measured on the demo model and on random weights of the published shape; the largest, or the
# smallest agreement, of int8 and float caches, and of texts of 688 and 18,391 tokens:
#
#             logits   cached  batch   greedy  top    KL       perplexity, %
#     fp32    1.2e-4   6.0e-5  0       1       1      2.2e-8   2.9e-5
#     fp16    2.2e-2   9.8e-3  1.6e-3  1       0.999  2.0e-6   7.2e-3
#     int8    0.91     0.050   0       0.03    0.943  2.2e-3   0.39
#     int4    1.4      0.099   0.23    0       0.889  1.0e-2   0.82
#
# Rows of int4 depend on their batch on some processors only, and then cached differs too.
# Weights trained for long with Muon make the most of a rounding: the demo model of 50 million
# tokens has the largest figures of fp32 and fp16.
#
# Rows of fp32 and int8 do not depend on their batch, bit for bit. fp16 has room for GPUs, which
# round logits to it, and bf16, not measured, has three bits less. A mask that leaks: cached 20,
# KL 6, agreement 0.02, perplexity -98 %.
LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(1e-3, 1e-3, 0, 1, 0.99, 1e-6, 0.01),
    "fp16": Limits(math.inf, 0.5, 0.5, 0, 0.98, 1e-3, 0.1),
    "bf16": Limits(math.inf, 4, 4, 0, 0.9, 0.01, 0.5),
    "int8": Limits(math.inf, 1, 0, 0, 0.85, 0.02, 1),
    "int4": Limits(math.inf, 2, 2, 0, 0.5, 0.03, 2),
}
_AT_LEAST = ("greedy_agreement", "top_agreement")


def check(figures: Verification, precision: Precision) -> None:
    """Hold figures against the limits of a precision.

    Raises:
        ExportError: Some are over their limits; the message names each, with both numbers.
    """
    if found := [*_exceeded(figures, LIMITS[precision])]:
        raise ExportError(
            f"in {precision} the bundle differs too much from PyTorch: {', '.join(found)}; choose "
            "another --precision, or --no-verify to look into it"
        )


def _exceeded(figures: Verification, limits: Limits) -> Iterator[str]:
    if figures.wrong_candidates:
        yield f"wrong_candidates is {figures.wrong_candidates} (at most 0)"
    for item in fields(limits):
        found, limit = getattr(figures, item.name), getattr(limits, item.name)
        # What is not a number is over every limit.
        if item.name in _AT_LEAST:
            if not found >= limit:
                yield f"{item.name} is {found:.3g} (at least {limit:g})"
        elif not abs(found) <= limit:
            yield f"{item.name} is {found:.3g} (at most {limit:g})"
