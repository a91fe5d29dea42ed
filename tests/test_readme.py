"""Every command and every Python example of the READMEs runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def blocks(readme: str, language: str) -> list[str]:
    text = (ROOT / readme).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("readme", ["README.md", "README.ja.md"])
def test_commands(readme: str, tmp_path: Path) -> None:
    # `make` and `pip` are run by the Makefile's own targets; the hub is out of a test's reach.
    commands = [
        line
        for block in blocks(readme, "sh")
        for line in block.splitlines()
        if not line.startswith(("make ", "pip ")) and "gpt2-small-ja" not in line
    ]
    assert len(commands) >= 8
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr.decode())
    assert len((tmp_path / "texts.jsonl").read_text().splitlines()) == 2


def test_both_readmes_show_the_same_commands() -> None:
    english, japanese = (
        [line.split("#")[0].strip() for block in blocks(name, "sh") for line in block.splitlines()]
        for name in ("README.md", "README.ja.md")
    )
    assert english == japanese


@pytest.mark.parametrize("readme", ["README.md", "README.ja.md"])
def test_python(readme: str, tmp_path: Path) -> None:
    for block in blocks(readme, "python"):
        subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True, capture_output=True)
