"""The native operators of this machine, and a bundle of the precision that other tests need not."""

from __future__ import annotations

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
def quantized(
    bundles: dict[str, Path], checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Bundles that call functions: int8, int4, and int8 with all activations of 16 bits."""
    made = tmp_path_factory.mktemp("quantized")
    # The limits are about trained weights; random ones lose more.
    int4 = ExportSettings(precision="int4", verify=False)
    export_bundle(str(checkpoint), made / "int4", int4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt2ja_export.calibration._ACTIVATION_LIMIT", -1)
        export_bundle(str(checkpoint), made / "a16", ExportSettings(verify=False))
    return {"int8": bundles["int8"], "int4": made / "int4", "a16": made / "a16"}
