"""report.md and report.html from a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_bench.reporting.html import render_html
from gpt2ja_bench.reporting.markdown import render_markdown
from gpt2ja_onnx.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_bench.report import Report

MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"


def write_pages(directory: Path, report: Report) -> list[Path]:
    """Write both pages into a directory, which is made if it is missing; return their paths.

    Raises:
        OutputError: The directory or a page cannot be written.
    """
    pages = {MARKDOWN_FILE: render_markdown(report), HTML_FILE: render_html(report)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in pages.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{directory}: cannot be written: {error.strerror}") from error
    return [directory / name for name in pages]
