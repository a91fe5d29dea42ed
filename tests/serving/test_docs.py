"""The examples of docs/serving.md and of the READMEs' chapter run against a server."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpt2ja_serve.cli import command

if TYPE_CHECKING:
    from tests.serving.running import Running

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("docs/serving.md", "README.md", "README.ja.md")
ADDRESS = "http://127.0.0.1:8000"


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(document: str) -> list[str]:
    """The commands of a document, each on one line."""
    text = "".join(blocks(document, "bash")).replace("\\\n", " ")
    return [re.sub(r"\s{2,}#.*", "", line) for line in text.splitlines()]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_calls_with_curl(served: Running, document: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("key", encoding="utf-8")
    calls = [line for line in commands(document) if line.startswith("curl ")]
    assert calls
    for call in calls:
        done = subprocess.run(
            ["bash", "-c", call.replace("curl ", "curl -sS --fail-with-body ", 1).replace(
                ADDRESS, served.url)],
            capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (call, done.stdout, done.stderr)
        assert done.stdout.startswith(("{", "data: ")), done.stdout


@pytest.mark.parametrize("document", DOCUMENTS)
def test_calls_with_openai(served: Running, document: str) -> None:
    found = blocks(document, "py")
    assert found
    for code in found:
        done = subprocess.run(
            [sys.executable, "-c", code.replace(ADDRESS, served.url)],
            capture_output=True, text=True, encoding="utf-8", check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(done.stdout) > 5


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_of_the_command(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    unit = [line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart=")]
    lines = [line for line in commands(document) + unit if "gpt2ja-onnx serve" in line]
    assert lines
    names = {name for parameter in command.params for name in parameter.opts}
    for line in lines:
        words = shlex.split(line.partition(" serve")[2])
        for word in words:
            assert not word.startswith("--") or word in names | {"--help"}, line
    for option in re.findall(r"`(--[a-z-]+)", text) if document == "docs/serving.md" else ():
        known = names | {name for parameter in command.params for name in parameter.secondary_opts}
        assert option in known, option


def test_both_readmes_show_the_same_calls() -> None:
    for language in ("bash", "py"):
        english, japanese = (
            [
                re.sub(r"\s{2,}#.*", "", block, flags=re.MULTILINE)
                for block in blocks(name, language)
            ]
            for name in ("README.md", "README.ja.md")
        )
        assert english == japanese
