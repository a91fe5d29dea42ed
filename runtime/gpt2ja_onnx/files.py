"""Directories that are whole or absent: written under a temporary name, renamed when done."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gpt2ja_onnx.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

_WRITE_FAILURES = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOTEMPTY,
}  # fmt: skip


class Product(NamedTuple):
    """What a command writes to a directory, and how such a directory is known again.

    Attributes:
        name: For messages, such as ``a corpus``.
        marker: A JSON file that every one has.
        names: From the marker's content to the names of the other files; None if the content is
            not one of this project's.
    """

    name: str
    marker: str
    names: Callable[[dict[str, Any]], Collection[str] | None]


def check_output_directory(
    output: Path, product: Product, *, force: bool, inputs: Iterable[str | Path] = ()
) -> None:
    """Raise early, before any work is done, if `output` could not be written at the end.

    Args:
        output: The directory to write.
        product: What will be written.
        force: Replace a directory that holds such a product, and nothing else.
        inputs: What is read; those that do not exist here, such as hub ids, are left out.

    Raises:
        OutputError: `output` holds something else, or is one of the `inputs`, holds one or lies
            inside one; or it exists and `force` is not set, is a file or a link, or the directory
            in which it would be made cannot be written.
    """
    check_apart(output, inputs)
    _check_replaceable(output, product, force=force)
    nearest = next(parent for parent in output.resolve().parents if parent.exists())
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=f".{output.name}."):
            pass
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from error


def check_apart(output: Path, inputs: Iterable[str | Path]) -> None:
    """Raise if `output` is one of the `inputs`, holds one, or lies inside one.

    Raises:
        OutputError: So it is.
    """
    target = output.resolve()
    for given in inputs:
        source = Path(given).resolve()
        if not source.exists():
            continue
        if source == target:
            relation = "is the input"
        elif source.is_relative_to(target):
            relation = "holds the input"
        elif target.is_relative_to(source):
            relation = "lies inside the input"
        else:
            continue
        raise OutputError(f"{output}: {relation} {given}; choose another output")


@contextlib.contextmanager
def atomic_directory(output: Path, product: Product, *, force: bool) -> Iterator[Path]:
    """Yield an empty temporary directory beside `output` that becomes `output` on success.

    On any exception, an interrupt included, the temporary directory is removed and `output`
    stays as it was.

    Raises:
        OutputError: as `check_output_directory`, or a disk that is full or fails.
    """
    check_output_directory(output, product, force=force)
    output = output.resolve()
    made = [parent for parent in output.parents if not parent.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    replaced = temporary.with_name(temporary.name + ".old")
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        _check_replaceable(output, product, force=force)  # others may have written meanwhile
        if output.exists():
            output.rename(replaced)
        temporary.rename(output)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        if error.errno not in _WRITE_FAILURES:
            raise
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from error
    finally:
        if replaced.exists() and not output.exists():
            replaced.rename(output)
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # up to the first that is not empty
            for parent in made:
                parent.rmdir()


def _check_replaceable(output: Path, product: Product, *, force: bool) -> None:
    if output.is_symlink():
        raise OutputError(f"{output}: is a link; name the directory that it leads to")
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: exists and is not a directory")
    if not output.exists() or not any(output.iterdir()):
        return
    names = _names(output, product)
    with os.scandir(output) as entries:
        foreign = min(
            (
                entry.name
                for entry in entries
                if entry.name not in names or not entry.is_file(follow_symlinks=False)
            ),
            default=None,
        )
    if not names:
        raise OutputError(
            f"{output}: holds {foreign!r} and is not {product.name}, so it is not replaced; choose "
            "another output"
        )
    if foreign is not None:
        raise OutputError(
            f"{output}: holds {foreign!r}, which is no part of {product.name}; move it away or "
            "choose another output"
        )
    if not force:
        raise OutputError(f"{output}: exists already; use --force to replace it")


def _names(directory: Path, product: Product) -> Collection[str]:
    """The files that a product in `directory` would have; none if there is no product."""
    names = None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads((directory / product.marker).read_text(encoding="utf-8"))
        names = product.names(content) if isinstance(content, dict) else None
    return () if names is None else {product.marker, *names}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
