"""Models of the Hugging Face hub by their names: exported once, into the user's cache."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2ja_onnx.bundle.demo import FULL_MODEL, FULL_REVISION, find_bundle
from gpt2ja_onnx.bundle.names import MANIFEST_FILE
from gpt2ja_onnx.errors import BundleError, MissingExtraError
from gpt2ja_onnx.log import info

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of the hub: an owner and a name, neither of which begins with a dot.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")


def hub_place(model: str | Path | None, *, cuda: bool = False) -> Path | None:
    """Where the bundle of a hub's model is, or will be; None if `model` is no such name.

    Args:
        model: ``owner/name`` or ``owner/name@revision``. A directory that exists is none.
        cuda: The bundle for a GPU, in fp16; for the CPU it is in int8.
    """
    if model is None or not _NAME.fullmatch(str(model)) or Path(model).exists():
        return None
    name, revision = _split(str(model))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    precision = "cuda-fp16" if cuda else "int8"
    return cache / "gpt2ja-onnx" / name.replace("/", "--") / (revision or "main") / precision


def open_bundle(model: str | Path | None, *, cuda: bool = False) -> Path:
    """The directory of a bundle: a path, the demo's for None, or the export of a hub's model.

    A model of the hub is exported when it is first asked for; other processes that ask for it
    wait meanwhile. A new export of what has changed on the hub is made by removing the old one.

    Raises:
        MissingExtraError: The model is not exported yet, and the extra for it is not installed.
        Gpt2jaError: It cannot be exported.
    """
    place = hub_place(model, cuda=cuda)
    if place is None:
        return find_bundle(model)
    if not (place / MANIFEST_FILE).exists():
        with _locked(place):
            if not (place / MANIFEST_FILE).exists():
                _export(str(model), place, cuda=cuda)
    return place


def _split(model: str) -> tuple[str, str | None]:
    name, _, revision = model.partition("@")
    return name, revision or (FULL_REVISION if name == FULL_MODEL else None)


def _export(model: str, place: Path, *, cuda: bool) -> None:
    name, revision = _split(model)
    try:
        # By name: the runtime works without the exporter.
        exporter = importlib.import_module("gpt2ja_export")
        settings = (
            exporter.ExportSettings(precision="fp16", device="cuda")
            if cuda
            else exporter.ExportSettings()
        )
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{model} is no directory here; to export it from the hub, install what that needs "
            f"(here it lacks {error.name}): pip install -c constraints.txt 'gpt2ja-onnx[export]'"
        ) from error
    info("exporting %s to %s", model, place)
    exporter.export_bundle(name, place, settings, revision=revision)


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Wait until no other process exports this."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = (place.parent / f".{place.name}.lock").open("w")
    except OSError as error:
        raise BundleError(
            f"{place.parent}: cannot be written: {error.strerror}; set XDG_CACHE_HOME"
        ) from error
    with lock:
        with contextlib.suppress(ImportError):  # elsewhere than on POSIX nothing waits
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
