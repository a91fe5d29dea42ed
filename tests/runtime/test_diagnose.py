"""What ``gpt2ja-onnx diagnose`` tells."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def lines(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, str]]:
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", *(str(argument) for argument in arguments)])
    out = capsys.readouterr().out
    pairs = ((line[:30].strip(), line[30:]) for line in out.splitlines())
    return int(ended.value.code or 0), dict(pairs)


def test_a_bundle_is_run(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\necho "A Card, 600.1, 9.0, 81559 MiB, 12 MiB"\n', encoding="ascii")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    code, found = lines(capsys, "--model", bundles["int8"])
    assert code == 0
    assert found["gpu"] == "A Card, 600.1, 9.0, 81559 MiB, 12 MiB"
    assert found["bundle"] == str(bundles["int8"])
    assert found["runs on"].startswith("cpu, int8, ")
    assert found["step of 1 rows"].endswith(" ms, median of 32")
    assert found["step of 8 rows"].endswith(" ms, median of 32")
    assert found["memory"].count("process ") == found["memory"].count("GPU ") == 2
    assert "CUDA graphs captured" not in found


def test_a_run_that_fails_is_told_behind_the_rest(
    bundles: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(bundles["int8"], tmp_path / "broken")
    graph = broken / names.MODEL_FILE
    graph.write_bytes(graph.read_bytes()[::-1])
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", "--model", str(broken)])
    captured = capfd.readouterr()
    assert ended.value.code == 1
    assert "onnxruntime" in captured.out
    assert "ended with                    exit code 1" in captured.out
    assert "its SHA-256 is not the manifest's" in captured.err
