"""What a report says, as sections of text and tables that every format renders alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tone = Literal["", "ours", "wrong", "absent"]


@dataclass(frozen=True, slots=True)
class Row:
    """Cells of one engine; the first names it.

    Attributes:
        tone: ``wrong`` for an engine whose output is not PyTorch's, ``absent`` for one that was
            not measured, ``ours`` for this project.
    """

    cells: tuple[str, ...]
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns; cells of the columns after the first `text_columns` are numbers."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    title: str = ""
    text_columns: int = 1
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with what stands under it."""

    title: str
    paragraphs: tuple[str, ...] = ()
    bullets: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot.

    Attributes:
        id: For links, and before the ids inside `svg`.
        svg: An ``<svg>`` element with its own title and description.
        caption: How to read it, and what is not in it.
    """

    id: str
    title: str
    svg: str
    caption: str


@dataclass(frozen=True, slots=True)
class Document:
    """A report for people.

    Attributes:
        lead: What was measured on what, in a paragraph.
        warnings: What a reader must know before any figure.
        summary: The sections that most readers need.
        details: The others.
    """

    title: str
    lead: str
    warnings: tuple[str, ...]
    summary: tuple[Section, ...]
    details: tuple[Section, ...]
