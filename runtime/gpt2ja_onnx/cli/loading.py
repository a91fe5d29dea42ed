"""Loading a bundle for a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_onnx.model import GPT2Ja


def load(model: Path | None, *, quiet: bool, **options: Any) -> GPT2Ja:
    """Load a bundle, and say so if it is the demo model for want of another."""
    from gpt2ja_onnx.model import GPT2Ja

    tell_of_demo(model, quiet=quiet)
    return GPT2Ja.load(model, **options)


def tell_of_demo(model: Path | None, *, quiet: bool) -> None:
    """On a terminal, say that it is the demo model for want of another."""
    from gpt2ja_onnx.bundle.demo import NOTICE

    if model is None and not quiet and sys.stderr.isatty():
        click.echo(NOTICE, err=True)
