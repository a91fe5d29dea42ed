"""What a job shows while it runs: rows, tokens a second, the time left."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(rows: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is a terminal; yields what takes the tokens of each row done."""
    if quiet or not sys.stderr.isatty():
        yield lambda tokens: None
        return
    began, total = time.monotonic(), 0

    def speed(_: object) -> str:
        return f"{total / max(time.monotonic() - began, 1e-9):,.0f} tokens/s"

    def advance(tokens: int) -> None:
        nonlocal total
        total += tokens
        bar.update(1)

    with click.progressbar(
        length=rows, file=sys.stderr, show_pos=True, item_show_func=speed
    ) as bar:
        yield advance
