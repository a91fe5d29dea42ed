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
    """Bundles that call functions, by precision."""
    int4 = tmp_path_factory.mktemp("int4") / "int4"
    # The limits are about trained weights; random ones lose more.
    export_bundle(str(checkpoint), int4, ExportSettings(precision="int4", verify=False))
    return {"int8": bundles["int8"], "int4": int4}
