"""Writes what is made from the declarations of settings: keyword types and both READMEs' tables.

Run by `make settings`; a test compares.
"""

from __future__ import annotations

from pathlib import Path

from gpt2ja_onnx.bundle.demo import demo_bundle
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.settings.config import GenerationConfig

ROOT = Path(__file__).parents[1]
KEYWORDS = ROOT / "runtime" / "gpt2ja_onnx" / "settings" / "keywords.py"
READMES = {"en": ROOT / "README.md", "ja": ROOT / "README.ja.md"}
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"
HEADS = {
    "en": ("setting", "default", "demo model", "what it does"),
    "ja": ("設定", "既定値", "デモモデル", "内容"),
}
NOTHING = {"en": "none", "ja": "なし"}


def keywords() -> str:
    """The module that types the settings as keywords."""
    lines = [
        '"""The settings as keywords, so that editors complete and type checkers check them.',
        "",
        "Made from `gpt2ja_onnx.settings.config` by `make settings`; do not edit.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from typing import TYPE_CHECKING, Any, Literal, TypedDict",
        "",
        "if TYPE_CHECKING:",
        "    from collections.abc import Mapping, Sequence",
        "",
        "    from gpt2ja_onnx.settings.kinds import LogitsProcessor",
        "",
        "",
        "class Settings(TypedDict, total=False):",
        '    """Every field of `GenerationConfig`, none of them needed."""',
        "",
    ]
    for name, item in GenerationConfig.declared().items():
        lines.append(f"    {name}: {item.metadata['declaration'].kind.accepts}")
    return "\n".join(lines) + "\n"


def table(language: str) -> str:
    """The table of all settings in one language; the demo's column has what its bundle sets."""
    demo = read_manifest(demo_bundle()).generation_defaults
    head = HEADS[language]
    lines = [f"| {' | '.join(head)} |", "| --- | --- | --- | --- |"]
    for name, item in GenerationConfig.declared().items():
        text = getattr(item.metadata["declaration"], language)
        default = _value(item.default, language)
        shown = _value(demo[name], language) if name in demo else ""
        lines.append(f"| `{name}` | {default} | {shown} | {text} |")
    return "\n".join(lines) + "\n"


def with_table(text: str, language: str) -> str:
    """A README with its table made anew.

    Raises:
        ValueError: The README does not have both markers, in their order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        name = READMES[language].name
        raise ValueError(f"{name}: expected the lines {BEGIN} and {END}, in this order")
    return f"{before}{BEGIN}\n\n{table(language)}\n{END}{after}"


def _value(value: object, language: str) -> str:
    return NOTHING[language] if value in ((), []) else f"`{value}`"


def main() -> None:
    """Write all of them, or none where a README lacks a marker."""
    texts = {KEYWORDS: keywords()}
    for language, path in READMES.items():
        texts[path] = with_table(path.read_text(encoding="utf-8"), language)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
