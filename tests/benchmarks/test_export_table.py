"""The table of exports, on a tiny checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpt2ja_bench.making.export_table import make_table, measure
from gpt2ja_onnx.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_row_of_the_table(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    export = measure(str(make_checkpoint(1, 32, 1)), tmp_path / "out", "fp32", None)
    assert export.memory > 100e6  # PyTorch alone takes more
    assert export.size == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    table = make_table([export])
    cells = dict(zip(table.columns, table.rows[0].cells, strict=True))
    assert cells["precision"] == "fp32"
    assert float(cells["max logit difference"]) <= 1e-4


def test_an_export_that_fails(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="int8: the export ended with code 1"):
        measure(str(tmp_path / "nowhere"), tmp_path / "out", "int8", None)
