"""Where direct labels go, so that none covers another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_bench.reporting.plots.style import colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

_LINE = 14.0  # height of a label, in units of the SVG


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart by at least `gap`, as little as possible, within `low` and `high`.

    In the order of the positions, x[i] - i * gap must not fall: the nearest such sequence in the
    sum of squares is isotonic regression, by pooling adjacent violators (Barlow et al., 1972).
    """
    order = np.argsort(wanted, kind="stable")
    targets = np.asarray(wanted)[order] - gap * np.arange(len(order))
    pools: list[tuple[float, int]] = []
    for target in targets:
        mean, count = float(target), 1
        while pools and pools[-1][0] > mean:
            other, size = pools.pop()
            mean, count = (mean * count + other * size) / (count + size), count + size
        pools.append((mean, count))
    flat = np.repeat([mean for mean, _ in pools], [count for _, count in pools])
    flat = np.clip(flat, low, max(low, high - gap * (len(order) - 1)))
    placed = np.empty(len(order))
    placed[order] = flat + gap * np.arange(len(order))
    return placed.tolist()


def label_at_right(
    axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], colours: Sequence[str]
) -> None:
    """Write each point's label in a column right of the axes, with a thin line from the point."""
    if not points:
        return
    at = axes.transData.transform(points)
    box = axes.bbox
    heights = spread(at[:, 1].tolist(), _LINE, box.y0 + 2, box.y1 - 2)
    for (x, y), height, text, name in zip(at, heights, texts, colours, strict=True):
        axes.annotate(
            text,
            xy=(x + 4, y),
            xycoords="figure pixels",
            xytext=(box.x1 + 14, height),
            textcoords="figure pixels",
            color=colour(name),
            fontsize=11.5,
            fontweight="bold" if name == "ours" else "normal",
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour(name),
                "linewidth": 0.7,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )
