"""Loading a bundle for a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_onnx.model import GPT2Ja


def load(model: Path | None, *, quiet: bool, **options: Any) -> GPT2Ja:
    """Load a bundle; on a terminal, say so if it is the demo model for want of another."""
    from gpt2ja_onnx.bundle.demo import NOTICE
    from gpt2ja_onnx.model import GPT2Ja

    if model is None and not quiet and sys.stderr.isatty():
        click.echo(NOTICE, err=True)
    return GPT2Ja.load(model, **options)
