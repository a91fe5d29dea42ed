"""What building llama.cpp's server needs is said before anything is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpt2ja_bench.making.llama_server import build
from gpt2ja_onnx.errors import BenchmarkError

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = "gpt2ja_bench.making.llama_server.version"


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2ja_bench.making.llama_server._PACKAGE", "no-such-package")
    with pytest.raises(BenchmarkError, match=r"no-such-package is not installed: pip install"):
        build(tmp_path / "llama-server")
    monkeypatch.setattr(_VERSION, lambda name: "1.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchmarkError, match="cmake is not installed"):
        build(tmp_path / "llama-server")
    assert list(tmp_path.iterdir()) == []
