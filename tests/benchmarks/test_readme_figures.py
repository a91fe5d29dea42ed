"""The READMEs' figures are those of the committed report, and nobody's handwriting."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from gpt2ja_bench.making.readme import (
    BEGIN,
    END,
    PICTURE,
    REPORT,
    replace_section,
    speed_section,
    write_readmes,
)
from gpt2ja_bench.report import read_report, write_report
from gpt2ja_onnx.errors import BenchmarkError
from tests.benchmarks.reports import make_report

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README.ja.md")


@pytest.mark.parametrize("name", READMES)
def test_the_readme_is_what_the_command_makes(name: str) -> None:
    if not (ROOT / REPORT).exists():
        pytest.skip("no report is committed yet")
    text = (ROOT / name).read_text(encoding="utf-8")
    expected = replace_section(text, speed_section(read_report(ROOT / REPORT), name), name)
    assert text == expected, "run make readme-figures"
    assert (ROOT / PICTURE).exists()


def test_the_command_writes_both_readmes_and_the_picture(tmp_path: Path) -> None:
    for directory in ("benchmarks/results", "docs"):
        (tmp_path / directory).mkdir(parents=True)
    for name in READMES:
        shutil.copyfile(ROOT / name, tmp_path / name)
    write_report(tmp_path / REPORT, make_report(noise=0))
    write_readmes(tmp_path)
    for name in READMES:
        before, after = ((root / name).read_text(encoding="utf-8") for root in (ROOT, tmp_path))
        assert before.split(BEGIN)[0] == after.split(BEGIN)[0]
        assert before.split(END)[1] == after.split(END)[1]
        row = "| **gpt2ja-onnx int8** | 4.00 (9.03×) | 9.10 (10.1×) | 22.5 (9.02×) | 44.0 (8.43×) |"
        assert row in after
        assert PICTURE in after
    picture = (tmp_path / PICTURE).read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in picture
    assert "gpt2ja-onnx-int8" in picture
    write_readmes(tmp_path)
    assert (tmp_path / PICTURE).read_text(encoding="utf-8") == picture


def test_what_cannot_be_shown() -> None:
    report = make_report()
    with pytest.raises(BenchmarkError, match="expected the markers"):
        replace_section(f"{END} text {BEGIN}", "figures", "README.md")
    with pytest.raises(BenchmarkError, match="no batches"):
        speed_section(dataclasses.replace(report, workloads=(), results=()), "README.md")
