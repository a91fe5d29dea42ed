"""Directories that are whole or absent: written under a temporary name, renamed when done."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2ja_onnx.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_WRITE_FAILURES = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
}  # fmt: skip


def check_output_directory(output: Path, *, force: bool) -> None:
    """Raise early, before any work is done, if `output` could not be written at the end.

    Raises:
        OutputError: `output` exists and `force` is not set, `output` is a file, or the directory
            in which it would be made cannot be written.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise OutputError(f"{output}: exists and is not a directory")
    if output.exists() and any(output.iterdir()) and not force:
        raise OutputError(f"{output}: exists already; use --force to replace it")
    nearest = next(parent for parent in output.resolve().parents if parent.exists())
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=f".{output.name}."):
            pass
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def atomic_directory(output: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty temporary directory beside `output` that becomes `output` on success.

    On any exception, an interrupt included, the temporary directory is removed and `output`
    stays as it was.

    Raises:
        OutputError: as `check_output_directory`, or a disk that is full or fails.
    """
    check_output_directory(output, force=force)
    output = output.resolve()
    made = [parent for parent in output.parents if not parent.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    replaced = temporary.with_name(temporary.name + ".old")
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if output.exists():
            output.rename(replaced)
        temporary.rename(output)
    except OSError as error:
        if error.errno not in _WRITE_FAILURES:
            raise
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from error
    finally:
        if replaced.exists() and not output.exists():
            replaced.rename(output)
        for directory in (replaced, temporary):
            shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # up to the first that is not empty
            for parent in made:
                parent.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
