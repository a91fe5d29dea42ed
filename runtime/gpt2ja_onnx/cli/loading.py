"""Loading a bundle for a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_onnx.device.choice import DeviceChoice
    from gpt2ja_onnx.model import GPT2Ja


def load(model: Path | None, *, quiet: bool, device: DeviceChoice, **options: Any) -> GPT2Ja:
    """Load a bundle, and say what is not obvious about which."""
    from gpt2ja_onnx.model import GPT2Ja

    tell_of_model(model, device, quiet=quiet)
    return GPT2Ja.load(model, device=device, **options)


def tell_of_model(model: Path | None, device: DeviceChoice, *, quiet: bool) -> None:
    """Say that it is exported first, or on a terminal, that it is the demo model."""
    from gpt2ja_onnx.bundle.demo import NOTICE
    from gpt2ja_onnx.bundle.hub import hub_place

    if quiet:
        return
    place = hub_place(model, cuda=device == "cuda")
    if place is not None and not place.exists():
        click.echo(f"exporting {model} to {place}, once; this takes some minutes", err=True)
    elif model is None and sys.stderr.isatty():
        click.echo(NOTICE, err=True)
