"""``gpt2ja-onnx inspect``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gpt2ja_onnx.cli.common import to_json
from gpt2ja_onnx.demo import demo_bundle


@click.command("inspect")
@click.option("--model", type=click.Path(path_type=Path), help="Bundle.  [default: demo model]")
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@click.option("--verify-hashes", is_flag=True, help="Read every file and compare its SHA-256.")
def command(model: Path | None, format_: str, verify_hashes: bool) -> None:
    """Say what a bundle is, where it came from, what its verification found, and where it runs."""
    from gpt2ja_onnx import bundle
    from gpt2ja_onnx.device import obstacles
    from gpt2ja_onnx.providers import ort

    directory = demo_bundle() if model is None else model
    manifest = bundle.read_manifest(directory, verify_hashes=verify_hashes)
    content: dict[str, Any] = asdict(manifest)
    content["providers"] = ort.get_available_providers()
    content["obstacles"] = obstacles(manifest)
    if format_ == "json":
        click.echo(to_json(content))
        return
    size = sum(entry.size for entry in manifest.files.values())
    shape = manifest.shape
    lines: list[tuple[str, Any]] = [
        ("bundle", directory),
        ("source", f"{manifest.source.repository} {manifest.source.revision or ''}".strip()),
        ("licence", manifest.source.licence or "not stated"),
        ("model", f"{shape.layers} layers × {shape.width}, {shape.heads} heads"),
        ("context", f"{shape.context} tokens, vocabulary {shape.vocab_size}"),
        ("precision", f"{manifest.precision}, {manifest.graph} graph for {manifest.device}"),
        ("size", f"{size / 1e6:.1f} MB in {len(manifest.files)} files"),
    ]
    lines += [(f"  {name}", f"{entry.size:,}") for name, entry in manifest.files.items()]
    lines += [(f"  fused {name}", count) for name, count in manifest.fusions.items()]
    lines += [(f"  {name}", value) for name, value in manifest.quantization.items()]
    lines += [(f"  default {name}", v) for name, v in manifest.generation_defaults.items()]
    lines += [("verified", "yes" if manifest.verification else "no")]
    for name, value in manifest.verification.items():
        shown = f"{value:.6g}" if isinstance(value, float) else value
        lines.append((f"  {name.replace('_', ' ')}", shown))
    lines.append(("providers here", ", ".join(content["providers"])))
    for name, obstacle in content["obstacles"].items():
        lines.append((f"runs on {name} here", "yes" if obstacle is None else f"no: {obstacle}"))
    for name, value in lines:
        click.echo(f"{name:<30}{value}")
