"""What a checkpoint says of itself."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

import pytest

from gpt2ja_export.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (b"---\nlicense: cc-by-sa-3.0\nlanguage: ja\n---\nA model.\n", "cc-by-sa-3.0"),
        (b"---\r\nlanguage: ja\r\nlicense: mit\r\n---\r\n", "mit"),
        (b'---\nlicense: "mit"  # as its parent\n---\n', "mit"),
        (b"---\nlicense:\n- mit\n- apache-2.0\n---\n", "mit, apache-2.0"),
        (b"---\nlicense: mit\n---\n\xff\xfe\n", "mit"),
        (b"---\nlicense:\n---\n", None),
        (b"---\nlanguage: ja\n---\nlicense: mit\n", None),
        (b"# A model\nlicense: mit\n", None),
        (b"---\nlicense: mit\n", None),
        (b"---\nlicense: [mit\n---\n", None),
        (b"---\n- license\n---\n", None),
        (b"---\nlicense: mit\n1: 2\n---\n", None),
        (b"", None),
        (None, None),
    ],
)
def test_the_licence_of_a_model_card(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    card: bytes | None,
    licence: str | None,
) -> None:
    warned: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger("huggingface_hub.repocard"), "handle", warned.append)
    source = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    if card is not None:
        (source / "README.md").write_bytes(card)
    assert open_checkpoint(str(source)).source.licence == licence
    assert warned == []
