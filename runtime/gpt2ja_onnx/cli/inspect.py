"""``gpt2ja-onnx inspect``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2ja_onnx.bundle.hub import open_bundle
from gpt2ja_onnx.cli.environment import environment
from gpt2ja_onnx.cli.outputs import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpt2ja_onnx.bundle.manifest import Manifest, TokenizerRules


@click.command("inspect")
@click.option("--model", type=click.Path(path_type=Path), help="Bundle.  [default: demo model]")
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@click.option("--verify-hashes", is_flag=True, help="Read every file and compare its SHA-256.")
def command(model: Path | None, format_: str, verify_hashes: bool) -> None:
    """Say what a bundle is, where it came from, what its verification found, and where it runs."""
    from gpt2ja_onnx.bundle.manifest import read_manifest
    from gpt2ja_onnx.device.choice import obstacles
    from gpt2ja_onnx.device.cpu.native import native_operators

    directory = open_bundle(model)
    manifest = read_manifest(directory, verify_hashes=verify_hashes)
    places = obstacles(manifest)
    native = native_operators(manifest)
    kernels = f"no: {native}" if isinstance(native, str) else native.instruction_set
    here = environment() | {"native operators": kernels}
    if format_ == "json":
        click.echo(to_json(asdict(manifest) | {"obstacles": places, "here": here}))
        return
    for name, value in here.items():
        click.echo(f"{name:<30}{value}")
    click.echo(f"{'bundle':<30}{directory}")
    for name, value in _lines(manifest):
        click.echo(f"{name:<30}{value}")
    for device, obstacle in places.items():
        answer = "yes" if obstacle is None else f"no: {obstacle}"
        click.echo(f"{f'runs here on {device}':<30}{answer}")


def _lines(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    """Names and values; those that belong to the line above are indented."""
    shape, source = manifest.shape, manifest.source
    yield "source", f"{source.repository} {source.revision or ''}".strip()
    yield "  weights' SHA-256", source.weights_sha256
    yield "licence", source.licence or "not stated"
    yield "model", f"{shape.layers} layers × {shape.width}, {shape.heads} heads"
    yield "context", f"{shape.context} tokens, vocabulary {shape.vocab_size}"
    yield "tokenizer", ", ".join(["sentencepiece", *_rules(manifest.tokenizer)])
    for name, value in manifest.generation_defaults.items():
        yield f"  default {name}", value
    yield "precision", f"{manifest.precision}, {manifest.graph} graph for {manifest.device}"
    yield from _indented(manifest.quantization)
    yield "size", _megabytes(sum(entry.size for entry in manifest.files.values()))
    yield from _indented({name: _megabytes(e.size) for name, e in manifest.files.items()})
    yield "weights", _megabytes(sum(manifest.weights.values()))
    yield from _indented({name: _megabytes(size) for name, size in manifest.weights.items()})
    yield "fused operators", sum(manifest.fusions.values())
    yield from _indented(manifest.fusions)
    yield "verified", "against PyTorch in fp32" if manifest.verification else "no"
    yield from _indented(manifest.verification)


def _rules(rules: TokenizerRules) -> Iterator[str]:
    plain = type(rules)(all_special_ids=rules.all_special_ids)
    for name, value in asdict(rules).items():
        if value != getattr(plain, name):
            yield (
                name
                if value is True
                else f"no {name}"
                if value is False
                else f"{len(value)} {name}"
            )


def _indented(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        label = f"  {name.replace('_', ' ') if '.' not in name else name}"
        if isinstance(value, dict):
            yield label, ""
            yield from ((f"  {inner}", shown) for inner, shown in _indented(value))
        elif isinstance(value, list):
            yield label, ", ".join(map(str, value)) or "none"
        else:
            yield label, f"{value:.6g}" if isinstance(value, float) else value


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.3f} MB"
