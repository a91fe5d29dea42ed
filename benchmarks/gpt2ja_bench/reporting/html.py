"""report.html: one file with its style and plots inside, and no script."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gpt2ja_bench.reporting.content import make_document
from gpt2ja_bench.reporting.plots.pictures import make_plots
from gpt2ja_bench.reporting.plots.style import theme_css

if TYPE_CHECKING:
    from gpt2ja_bench.report import Report

_TEMPLATES = Path(__file__).parent / "templates"


def render_html(report: Report) -> str:
    """A report as a page that needs nothing but itself."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = theme_css() + (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        document=make_document(report),
        plots=make_plots(report),
        style=Markup(style),
        markup=Markup,
    )
