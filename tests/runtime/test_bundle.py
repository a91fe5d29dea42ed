"""Bundles that are damaged, foreign or of another version are refused in one clear line."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def copy(bundles: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(bundles["fp32"], tmp_path / "bundle")


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "bundle.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_hashes_are_compared_when_asked_for(copy: Path) -> None:
    read_manifest(copy, verify_hashes=True)
    data = copy / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    read_manifest(copy)
    with pytest.raises(BundleError, match="SHA-256"):
        read_manifest(copy, verify_hashes=True)


def test_a_cut_file(copy: Path) -> None:
    data = copy / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"model\.onnx\.data: has \d+ bytes, the manifest says"):
        GPT2Ja.load(copy)


@pytest.mark.parametrize("name", ["spiece.model", "model.onnx", "config.json"])
def test_a_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: the file is missing"):
        GPT2Ja.load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=2), "has version 2, this release reads version 1; update"),
        (lambda c: (c.clear(), c.update(format="gpt2ja-onnx", version=9)), "has version 9"),
        (lambda c: c.update(format="other"), "is not a manifest of this project"),
        (lambda c: c.pop("shape"), "cannot be read: KeyError"),
        (lambda c: c.update(files=[]), "files must be an object"),
        (lambda c: c.update(special_ids=None), "special_ids must be an object"),
        (lambda c: c["shape"].pop("heads"), "cannot be read: KeyError"),
        (lambda c: c.update(precision="fp8"), "precision must be one of"),
        (lambda c: c["shape"].update(heads=5), "the shape is impossible"),
        (
            lambda c: c["shape"].update(heads=4),
            "has 2 heads of 32 in layer 0, the manifest says 4 of 16",
        ),
        (lambda c: c["shape"].update(layers=3), "its inputs are not the manifest's"),
        (lambda c: c["shape"].update(vocab_size=9), "the tokenizer has 384 pieces"),
        (lambda c: c["files"].pop("spiece.model"), "names no spiece.model"),
        (lambda c: c.update(graph="portable"), "is a portable bundle for other tools"),
        (lambda c: c["files"].update({"../x": c["files"]["config.json"]}), "file is missing"),
    ],
)
def test_a_manifest_that_does_not_fit(
    copy: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(copy, change)
    with pytest.raises(BundleError, match=message):
        GPT2Ja.load(copy)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        GPT2Ja.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="is not a bundle"):
        GPT2Ja.load(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        GPT2Ja.load(tmp_path)


def test_a_graph_that_onnxruntime_cannot_load(copy: Path) -> None:
    model = copy / "model.onnx"
    model.write_bytes(b"\0" * model.stat().st_size)
    with pytest.raises(BundleError, match="onnxruntime cannot load the graph"):
        GPT2Ja.load(copy)
