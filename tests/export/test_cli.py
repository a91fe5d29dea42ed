"""What ``gpt2ja-onnx export`` shows."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import click
import pytest

from gpt2ja_onnx.cli import main

if TYPE_CHECKING:
    from pathlib import Path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def export(checkpoint: Path, output: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", str(checkpoint), str(output), "--precision", "fp32", "--no-verify"])
    assert ended.value.code == 0


def test_a_line_for_each_step(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(checkpoint, tmp_path / "out")
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert lines[0] == "1/6 opening the checkpoint …"
    assert lines[-1] == "6/6 hashing …"
    assert len(lines) == 6
    assert captured.out.startswith(f"wrote {tmp_path / 'out'}: fp32, ")


def test_a_bar_on_a_terminal(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    export(checkpoint, tmp_path / "out")
    shown = click.unstyle(terminal.getvalue()).split("\r")
    assert any("1/6  opening the checkpoint" in line for line in shown)
    assert any("3/6  fusing" in line for line in shown)
    assert "[####" in shown[-1]
    assert "6/6  hashing" in shown[-1]
