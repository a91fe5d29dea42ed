"""report.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_bench.reporting.content import make_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpt2ja_bench.report import Report
    from gpt2ja_bench.reporting.document import Row, Section, Table


def render_markdown(report: Report) -> str:
    """A report as GitHub's Markdown."""
    document = make_document(report)
    lines = [f"# {document.title}", "", _escaped(document.lead)]
    for warning in document.warnings:
        lines += ["", f"> **{_escaped(warning)}**"]
    for section in (*document.summary, *document.details):
        lines += _section(section)
    return "\n".join(lines) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield from ("", f"## {section.title}")
    for paragraph in section.paragraphs:
        yield from ("", _escaped(paragraph))
    if section.bullets:
        yield ""
        yield from (f"- {_escaped(bullet)}" for bullet in section.bullets)
    for table in section.tables:
        yield from table_lines(table)


def table_lines(table: Table) -> Iterator[str]:
    """A table with its title and note; numbers stand at the right."""
    if table.title:
        yield from ("", f"### {_escaped(table.title)}")
    yield ""
    yield f"| {' | '.join(map(_escaped, table.columns))} |"
    numbers = len(table.columns) - table.text_columns
    yield f"|{' --- |' * table.text_columns}{' ---: |' * numbers}"
    for row in table.rows:
        yield f"| {' | '.join(_cells(row))} |"
    if table.note:
        yield from ("", _escaped(table.note))


def _cells(row: Row) -> list[str]:
    cells = [_escaped(cell) for cell in row.cells]
    if row.tone in ("ours", "wrong"):
        cells[0] = f"**{cells[0]}**"
    return cells


def _escaped(text: str) -> str:
    for character, written in {"&": "&amp;", "<": "&lt;", "|": "\\|", "*": "\\*"}.items():
        text = text.replace(character, written)
    return " ".join(text.split())
