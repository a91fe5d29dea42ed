"""The runtime stands alone: it never imports what only export and training need."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FOREIGN = ("torch", "transformers", "optimum", "onnx", "datasets", "gpt2ja_export", "gpt2ja_train")


def test_generating_imports_nothing_of_pytorch(bundles: dict[str, Path]) -> None:
    code = f"""
import sys
from gpt2ja_onnx.cli import main
try:
    main(["generate", "朝の", "--model", {str(bundles["int8"])!r}])
except SystemExit as exit:
    assert exit.code == 0, exit.code
found = [name for name in {FOREIGN} if name in sys.modules]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_help_is_quick_to_import() -> None:
    """`--help` of every command works without onnxruntime and torch being imported."""
    code = """
import sys
from gpt2ja_onnx.cli import main
for command in ("export", "generate", "score", "serve", "batch", "inspect", "train"):
    try:
        main([command, "--help"])
    except SystemExit as exit:
        assert exit.code == 0, (command, exit.code)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
