"""What bundles take on disk, at the size of the published model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpt2ja_bench.making.export_table import SIZE_LIMITS
from gpt2ja_bench.making.synthetic_checkpoint import make_checkpoint
from gpt2ja_bench.running.shape import PUBLISHED, Shape
from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_onnx.bundle.manifest import read_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_onnx.bundle.manifest import Manifest, Precision

LAYERS, VOCABULARY = 1, 8000
# Tokenizer, graph and configuration files of the published model.
OTHER_FILES = 2_000_000


@pytest.fixture(scope="module")
def slice_of_published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of it, with a quarter of the vocabulary."""
    directory = tmp_path_factory.mktemp("checkpoint")
    make_checkpoint(directory, Shape(layers=LAYERS, vocab_size=VOCABULARY))
    return directory


def scaled(manifest: Manifest) -> float:
    """Bytes of all layers and of the whole vocabulary."""
    rows, layers = PUBLISHED.vocab_size / VOCABULARY, PUBLISHED.layers / LAYERS
    norms = (2 * PUBLISHED.layers + 1) / (2 * LAYERS + 1)
    factors = {
        "embedding_and_head": rows, "positions": 1, "attention": layers, "feed_forward": layers,
        "norms": norms, "other": rows,
    }  # fmt: skip
    return OTHER_FILES + sum(size * factors[part] for part, size in manifest.weights.items())


@pytest.mark.parametrize("precision", SIZE_LIMITS)
def test_the_published_shape_fits(
    slice_of_published: Path, tmp_path: Path, precision: Precision
) -> None:
    settings = ExportSettings(precision=precision, verify=False)
    manifest = export_bundle(str(slice_of_published), tmp_path / "out", settings)
    assert scaled(manifest) <= SIZE_LIMITS[precision] * 1e6


def test_sizes_are_those_of_the_file(bundles: dict[str, Path]) -> None:
    for path in bundles.values():
        manifest = read_manifest(path)
        data = manifest.files["model.onnx.data"].size
        # Small tensors are in the graph's file; alignment fills some bytes of the other.
        assert sum(manifest.weights.values()) == pytest.approx(data, rel=0.1)
        assert manifest.weights["other"] < 5000
        assert min(manifest.weights.values()) >= 0
        assert manifest.weights["feed_forward"] > manifest.weights["attention"] > 0
