"""The directory of a training run: what a run may write over, and what it removes at its end."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from gpt2ja_onnx.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# What a run needs only until it has finished, and what stands in it.
CHECKPOINTS = "checkpoints"
CACHE = "cache"
_TEMPORARY = {CHECKPOINTS: ("*checkpoint-*",), CACHE: ("generator", "*.lock")}
# What a finished run has written.
REPORT = "training.json"
_WRITTEN = (
    REPORT, "config.json", "generation_config.json", "model*.safetensors*", "spiece.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip


def check_run_directory(output: Path, *, resume: bool) -> None:
    """Make the directory of a run; nothing that another has put there may be lost.

    Raises:
        CheckpointError: There is nothing to resume.
        OutputError: `output` holds a training run already and `resume` is not set, or what the run
            would overwrite or remove; or it is a link, or cannot be written.
    """
    checkpoints = [*_matching(output / CHECKPOINTS, ("checkpoint-*",))]
    finished = (output / REPORT).exists()
    if resume and not checkpoints:
        if finished:
            raise CheckpointError(
                f"{output}: the run has finished and its checkpoints are removed, which "
                "--keep-checkpoints would have kept; --init-from goes on from its weights"
            )
        raise CheckpointError(f"{output}: has no checkpoint to resume from")
    if output.is_symlink():
        raise OutputError(f"{output}: is a link; name the directory that it leads to")
    if not resume:
        if checkpoints:
            raise OutputError(
                f"{output}: holds a training run already; use --resume or another name"
            )
        if finished:
            raise OutputError(f"{output}: holds a finished training run; use another name")
        for path in _matching(output, _WRITTEN):
            raise OutputError(
                f"{output}: holds {path.name}, which the run would overwrite; use another name"
            )
    for name, patterns in _TEMPORARY.items():
        directory = output / name
        ours = {*_matching(directory, patterns)}
        if directory.is_symlink() or (directory.is_dir() and {*directory.iterdir()} - ours):
            raise OutputError(
                f"{directory}: holds what no training run has written, which needs the name; use "
                "another output"
            )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}") from error


def remove_temporary(output: Path) -> None:
    """Remove checkpoints and cache of a run, and nothing beside them."""
    for name, patterns in _TEMPORARY.items():
        for path in _matching(output / name, patterns):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is not there, or not empty
            (output / name).rmdir()


def _matching(directory: Path, patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from directory.glob(pattern)
