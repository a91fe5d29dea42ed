"""Where the output of a job is: a directory, or one of an object store."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from gpt2ja_onnx.errors import BatchError, OutputError
from gpt2ja_serve.batch.sources import filesystem_of, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTS = "_parts"
# Stores in which a directory is but a part of names.
_STORES = ("s3", "gcs", "abfs")


class Place(Protocol):
    """Files by names, each of which appears whole.

    Attributes:
        name: For messages.
        temporaries: A local directory for what is not whole yet.
    """

    name: str
    temporaries: Path

    def prepare(self) -> None:
        """Make what the files need; fails with an `OSError`."""
        ...

    def lock(self, name: str, *, wait: bool) -> contextlib.AbstractContextManager[object]:
        """Be the only process that has this lock, where there are any.

        Raises:
            BatchError: Another process has it, and `wait` is not set.
        """
        ...

    def names(self) -> list[str]:
        """What is there."""
        ...

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is none."""
        ...

    def sha256(self, name: str) -> str | None:
        """Of a file's content; None if there is none."""
        ...

    def put(self, name: str, written: Path) -> None:
        """Give a file that was written to `temporaries` its name."""
        ...

    def close(self, *, used: bool) -> None:
        """Let go; what no job came into is removed."""
        ...


def place_of(output: str) -> Place:
    """The place that a path or a URL names.

    Raises:
        OutputError: It cannot be one.
    """
    return _Store(output) if "://" in output else _Directory(Path(output))


class _Directory:
    """Implements `Place`; files appear by rename."""

    def __init__(self, path: Path) -> None:
        if path.is_symlink() and not path.exists():
            raise OutputError(f"{path}: is a link that leads nowhere")
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path}: exists and is not a directory")
        self.name = str(path)
        self.temporaries = path / PARTS
        self._path = path
        self._locks: list[IO[str]] = []

    def prepare(self) -> None:
        """See `Place`."""
        self.temporaries.mkdir(parents=True, exist_ok=True)

    def lock(self, name: str, *, wait: bool) -> contextlib.AbstractContextManager[object]:
        """See `Place`."""
        file = (self._path / name).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            file.close()
            raise BatchError(
                f"{self.name}: another process works on this job; wait for it"
            ) from error
        return file

    def names(self) -> list[str]:
        """See `Place`."""
        return [item.name for item in self._path.iterdir()] if self._path.exists() else []

    def read(self, name: str) -> bytes | None:
        """See `Place`."""
        file = self._path / name
        return file.read_bytes() if file.exists() else None

    def sha256(self, name: str) -> str | None:
        """See `Place`."""
        if not (self._path / name).exists():
            return None
        with (self._path / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def put(self, name: str, written: Path) -> None:
        """See `Place`."""
        with written.open("rb") as file:
            os.fsync(file.fileno())
        written.replace(self._path / name)

    def close(self, *, used: bool) -> None:
        """See `Place`."""
        if used:
            return
        with contextlib.suppress(OSError):
            self.temporaries.rmdir()
            for lock in self._path.glob("_lock*"):
                lock.unlink()
            self._path.rmdir()


class _Store:
    """Implements `Place` by a file system of pyarrow's or fsspec's; a file is put whole.

    There are no locks. Two processes that do the same job here put the same bytes.
    """

    def __init__(self, url: str) -> None:
        try:
            self._filesystem, path = filesystem_of(url)
        except (OSError, ValueError, ImportError) as error:
            raise OutputError(f"{url}: cannot be opened: {reason_of(error)}") from error
        self.name = url
        self._root = path.rstrip("/")
        self._temporary = tempfile.TemporaryDirectory(prefix="gpt2ja-batch.")
        self.temporaries = Path(self._temporary.name)

    def prepare(self) -> None:
        """See `Place`."""
        if self._filesystem.type_name not in _STORES:
            self._filesystem.create_dir(f"{self._root}/{PARTS}", recursive=True)

    def lock(self, name: str, *, wait: bool) -> contextlib.AbstractContextManager[object]:
        """See `Place`."""
        del name, wait
        return contextlib.nullcontext()

    def names(self) -> list[str]:
        """See `Place`."""
        import pyarrow.fs

        selector = pyarrow.fs.FileSelector(self._root, allow_not_found=True)
        return [item.base_name for item in self._filesystem.get_file_info(selector)]

    def read(self, name: str) -> bytes | None:
        """See `Place`."""
        with contextlib.suppress(FileNotFoundError), self._opened(name) as file:
            return bytes(file.read())
        return None

    def sha256(self, name: str) -> str | None:
        """See `Place`."""
        with contextlib.suppress(FileNotFoundError):
            found = hashlib.sha256()
            with self._opened(name) as file:
                for block in _blocks(file):
                    found.update(block)
            return found.hexdigest()
        return None

    def put(self, name: str, written: Path) -> None:
        """See `Place`."""
        with (
            written.open("rb") as file,
            self._filesystem.open_output_stream(f"{self._root}/{name}") as target,
        ):
            for block in _blocks(file):
                target.write(block)
        written.unlink()

    def close(self, *, used: bool) -> None:
        """See `Place`."""
        del used
        self._temporary.cleanup()

    def _opened(self, name: str) -> Any:
        return self._filesystem.open_input_stream(f"{self._root}/{name}")


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(1 << 20):
        yield block
