"""Which processors need the slower, exact products of int8; tests of exports prove the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpt2ja_onnx.device.cpu import features

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "expected"),
    [
        ("x86_64", "processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n", False),
        ("x86_64", "processor : 0\nflags\t\t: fpu avx2 avx_vnni\n", False),
        ("x86_64", "processor : 0\nflags\t\t: fpu avx2 fma\n", True),
        ("x86_64", None, True),
        ("aarch64", "Features : asimd\n", False),
    ],
)
def test_which_processors_saturate(
    machine: str,
    cpuinfo: str | None,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(features, "_CPUINFO", path)
    monkeypatch.setattr("platform.machine", lambda: machine)
    features.int8_products_saturate.cache_clear()
    assert features.int8_products_saturate() is expected
    features.int8_products_saturate.cache_clear()
