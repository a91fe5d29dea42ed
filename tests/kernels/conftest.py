"""The native operators of this machine, and a bundle of the precision that other tests need not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_kernels import Kernels, load_kernels

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_onnx.bundle.manifest import Precision


@pytest.fixture(scope="session")
def native() -> Kernels:
    kernels = load_kernels()
    if isinstance(kernels, str):
        pytest.skip(f"{kernels}; run make kernels")
    return kernels


@pytest.fixture(scope="session")
def quantized(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles that call functions: int4, int8, and int8 with all that can take 16 bits."""
    made = tmp_path_factory.mktemp("quantized")
    precisions: dict[str, Precision] = {"int4": "int4", "int8": "int8", "16": "int8"}
    for name, precision in precisions.items():
        with pytest.MonkeyPatch.context() as patch:
            for costs in ("ACTIVATION", "CACHE", "INT4", "INT4_CACHE"):
                limit = -1 if name == "16" else math.inf
                patch.setattr(f"gpt2ja_export.choose_bits._{costs}_LIMIT", limit)
            # The limits are about trained weights; random ones lose more.
            settings = ExportSettings(precision=precision, verify=False)
            export_bundle(str(checkpoint), made / name, settings)
    return {path.name: path for path in made.iterdir()}
