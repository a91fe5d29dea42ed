"""The native operators of this machine, and a bundle of the precision that other tests need not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_kernels import Kernels, load_kernels

if TYPE_CHECKING:
    from pathlib import Path


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
    # The limits are about trained weights; random ones lose more.
    int4 = ExportSettings(precision="int4", verify=False)
    export_bundle(str(checkpoint), made / "int4", int4)
    for name, limit in (("int8", math.inf), ("16", -1)):
        with pytest.MonkeyPatch.context() as patch:
            for costs in ("ACTIVATION", "CACHE"):
                patch.setattr(f"gpt2ja_export.calibration._{costs}_LIMIT", limit)
            export_bundle(str(checkpoint), made / name, ExportSettings(verify=False))
    return {path.name: path for path in made.iterdir()}
