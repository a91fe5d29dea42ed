"""The READMEs: every command and example runs, shows what it prints, and is the same in both."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
READMES = {"en": "README.md", "ja": "README.ja.md"}
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
# The Makefile's own targets make environments and install; the hub is out of a test's reach.
NOT_RUN = ("cd ", "make ", "pip ", "python3 -m venv ", "source ")


class Block(NamedTuple):
    """A block of code, and the block of output that follows it at once, if there is one."""

    language: str
    text: str
    output: str | None


def blocks(readme: str, language: str) -> list[Block]:
    text = (ROOT / readme).read_text(encoding="utf-8")
    found = re.findall(r"```(\w+)\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, flags=re.DOTALL)
    return [Block(name, code, out or None) for name, code, out in found if name == language]


def commands(block: Block) -> list[str]:
    """What is run of a block: comments stand behind two spaces at least."""
    lines = [re.sub(r"\s{2,}#.*", "", line) for line in block.text.splitlines()]
    return [line for line in lines if not line.startswith(NOT_RUN) and "gpt2-small-ja" not in line]


def form(output: str) -> list[Any]:
    """What an output is like on every processor: fields of JSON, columns, or just a line."""
    return [
        list(json.loads(line)) if line.startswith("{") else line.count("\t")
        for line in output.splitlines()
    ]


def test_commands(tmp_path: Path) -> None:
    shown = 0
    for block in blocks(READMES["en"], "sh"):
        printed = ""
        for command in commands(block):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=ENVIRONMENT,
                capture_output=True,
                encoding="utf-8",
                check=False,
            )
            assert done.returncode == 0, (command, done.stderr)
            printed += done.stdout
        if block.output is not None:
            assert form(block.output) == form(printed), block.text
            shown += 1
    assert shown >= 4
    assert len((tmp_path / "texts.jsonl").read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize("language", ["sh", "text"])
def test_both_readmes_show_the_same_commands_and_outputs(language: str) -> None:
    english, japanese = (
        [
            (re.sub(r"\s{2,}#.*", "", block.text, flags=re.MULTILINE), block.output)
            for block in blocks(readme, language)
        ]
        for readme in READMES.values()
    )
    assert english == japanese


@pytest.mark.parametrize("readme", READMES.values())
def test_python(readme: str, tmp_path: Path) -> None:
    found = blocks(readme, "python")
    assert len(found) >= 6
    for block in found:
        subprocess.run(
            [sys.executable, "-c", block.text], cwd=tmp_path, check=True, capture_output=True
        )


@pytest.mark.parametrize("language", READMES)
def test_the_tables_of_settings_are_those_declared(language: str) -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))
    text = (ROOT / READMES[language]).read_text(encoding="utf-8")
    assert text == made["with_table"](text, language), "run python docs/make_settings.py"


def test_the_keyword_types_are_those_declared() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))
    text = made["KEYWORDS"].read_text(encoding="utf-8")
    assert text == made["keywords"](), "run python docs/make_settings.py"


@pytest.mark.parametrize("text", ["", "<!-- settings: begin -->", "<!-- settings: end -->"])
def test_a_readme_without_a_marker_is_an_error(text: str) -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))
    with pytest.raises(ValueError, match=r"README\.ja\.md: expected the lines <!-- settings: beg"):
        made["with_table"](text, "ja")
