"""Colours and SVG of the plots: drawn once, light and dark by the reader's preference.

Matplotlib draws with stand-in colours that occur nowhere else; in its SVG they are replaced by CSS
variables, whose values `theme_css` gives for both schemes. Texts stay texts, in the page's font.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from gpt2ja_bench.report import BASELINE
from gpt2ja_bench.reporting import statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gpt2ja_bench.report import EngineReport, Report

# Name → (light, dark). Any two lines differ by 18 or more in CIELAB, as people with normal sight
# and with protanopia, deuteranopia or tritanopia (Machado et al., 2009) see them; on its paper,
# each has a contrast of 4.5 or more. Warm hues are this project's; markers tell lines apart again.
_THEME = {
    "paper": ("#ffffff", "#15181c"),
    "ink": ("#1c1f23", "#e8eaed"),
    "muted": ("#5a616a", "#a3abb5"),
    "grid": ("#e3e6ea", "#2c3238"),
    "ours": ("#c2410c", "#ff8f4d"),
    "baseline": ("#1c1f23", "#e8eaed"),
    "series-1": ("#0f68de", "#777ffa"),
    "series-2": ("#2d7b4c", "#4e9b69"),
    "series-3": ("#9552a9", "#efb9fd"),
    "series-4": ("#0e4163", "#70e29a"),
    "series-5": ("#541e8e", "#a17dc0"),
    "other": ("#6b7280", "#9aa3ad"),
    "warning": ("#b3141d", "#ff7b7b"),
}
_MARKERS = {
    "ours": "o",
    "baseline": "s",
    "series-1": "^",
    "series-2": "D",
    "series-3": "v",
    "series-4": "P",
    "series-5": "h",
    "other": "<",
}
_STAND_INS = {name: f"#0000{index:02x}" for index, name in enumerate(_THEME, start=1)}
_ENLARGED = 1.5  # a picture of its own, over one of several on a page
_UNITS_AN_INCH = 72  # of matplotlib's SVG
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 12,
    "text.color": _STAND_INS["ink"],
    "axes.edgecolor": _STAND_INS["muted"],
    "axes.labelcolor": _STAND_INS["ink"],
    "axes.labelsize": 12,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "grid.color": _STAND_INS["grid"],
    "grid.linewidth": 1,
    "xtick.color": _STAND_INS["muted"],
    "ytick.color": _STAND_INS["muted"],
    "xtick.labelcolor": _STAND_INS["ink"],
    "ytick.labelcolor": _STAND_INS["ink"],
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.solid_capstyle": "round",
}
_DEFAULTS: dict[Any, Any] = dict(mpl.rcParamsDefault)
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in units of its SVG: one is a CSS pixel at its natural size."""
    return Figure(figsize=(width / _UNITS_AN_INCH, height / _UNITS_AN_INCH), dpi=_UNITS_AN_INCH)


def add_axes(figure: Figure, left: float, right: float, bottom: float, top: float) -> Axes:
    """Axes with these margins, in units of the SVG."""
    width, height = figure.get_size_inches() * _UNITS_AN_INCH
    return figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    )


def drawing() -> Any:
    """A context in which figures are made; nothing of it is left behind."""
    return mpl.rc_context(_DEFAULTS | _SETTINGS)


def colour(name: str) -> str:
    """What matplotlib draws with for a colour of the theme."""
    return _STAND_INS[name]


def series(report: Report) -> dict[str, str]:
    """Measured engine → name of its colour: one a library, fixed for this project and PyTorch."""
    baseline = {engine.library for engine in report.engines if engine.id == BASELINE}
    names: dict[str, str] = {}
    found: dict[str, str] = {}
    for engine in report.engines:
        if engine.status != "ok":
            continue
        package = engine.library.split(" ")[0]
        if statistics.is_ours(engine):
            found[engine.id] = "ours"
        elif engine.library in baseline:
            found[engine.id] = "baseline"
        else:
            following = f"series-{len(names) + 1}"
            names.setdefault(package, following if following in _THEME else "other")
            found[engine.id] = names[package]
    return found


def look(engine: EngineReport, name: str) -> dict[str, Any]:
    """How an engine's line and points are drawn.

    This project is thick, wrong ones are broken, weights of 16 bits or more hollow.
    """
    wrong = statistics.is_wrong(engine)
    hollow = (statistics.bits(engine.precision) or 0) >= 16
    return {
        "color": colour(name),
        "marker": "x" if wrong else _MARKERS[name],
        "markerfacecolor": colour("paper" if hollow else name),
        "linestyle": ":" if wrong else "-",
        "linewidth": 2.6 if name == "ours" else 1.4,
        "markersize": 7 if name == "ours" else 5.5,
        "zorder": 3 if name == "ours" else 2,
    }


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an ``<svg>`` element whose colours are `theme_css`'s variables.

    Args:
        figure: Made in `drawing`.
        name: Of the figure, so that ids differ between figures of a page.
        title: What a screen reader says first.
        description: What is to be seen, in words.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg ")) + 1 :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    for variable, stand_in in _STAND_INS.items():
        body = body.replace(stand_in, f"var(--{variable})")
    width, height = (round(size * _UNITS_AN_INCH) for size in figure.get_size_inches())
    return (
        f'<svg role="img" aria-labelledby="{name}-title {name}-text" '
        f'viewBox="0 0 {width} {height}" font-family="{_FONT}">\n'
        f'<title id="{name}-title">{_escaped(title)}</title>\n'
        f'<desc id="{name}-text">{_escaped(description)}</desc>{body.rstrip()}'
    )


def standalone(svg: str) -> str:
    """The SVG of `to_svg` as a file of its own, on its own paper, in the reader's scheme."""
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    head, rest = svg.split("\n", 1)
    width, height = re.findall(r'viewBox="0 0 (\d+) (\d+)"', head)[0]
    size = f'width="{_ENLARGED * int(width):.0f}" height="{_ENLARGED * int(height):.0f}"'
    paper = '<rect width="100%" height="100%" rx="8" fill="var(--paper)"/>'
    opening = head.replace("<svg ", f"<svg {namespaces} {size} ", 1)
    return f"{opening}\n<style>\n{theme_css()}</style>\n{paper}\n{rest}\n"


def theme_css() -> str:
    """The colours as CSS variables, dark ones for readers who prefer dark."""
    light, dark = (
        " ".join(f"--{name}: {values[index]};" for name, values in _THEME.items())
        for index in (0, 1)
    )
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
