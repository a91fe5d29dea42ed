"""The native operators of this machine."""

from __future__ import annotations

import pytest

from gpt2ja_kernels import Kernels, load_kernels


@pytest.fixture(scope="session")
def native() -> Kernels:
    kernels = load_kernels()
    if isinstance(kernels, str):
        pytest.skip(f"{kernels}; run make kernels")
    return kernels
