"""The input files of a job: which there are, and how each is read."""

from __future__ import annotations

import contextlib
import glob
import gzip
import io
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gpt2ja_onnx.errors import MissingExtraError, PromptError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Format = Literal["text", "jsonl", "parquet"]
Compression = Literal["", "gzip", "zstd"]

_FORMATS: dict[str, Format] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}


class Source(NamedTuple):
    """An input file.

    Attributes:
        name: Its path, or its URL.
        format: What it holds.
        compression: Of a file of lines.
        filesystem: pyarrow's, which has it; None for a local file.
        path: Where it is there.
    """

    name: str
    format: Format
    compression: Compression
    filesystem: Any
    path: str

    def open(self) -> Any:
        """Its bytes as they are, from any position."""
        if self.filesystem is None:
            return Path(self.path).open("rb")
        return self.filesystem.open_input_file(self.path)

    @contextlib.contextmanager
    def open_lines(self) -> Iterator[Iterable[bytes]]:
        """Its lines, decompressed."""
        with self.open() as file:
            if self.compression == "gzip":
                with gzip.open(file) as unpacked:
                    yield unpacked
            elif self.compression == "zstd":
                pa = _pyarrow("zst files")
                native = file if self.filesystem is not None else pa.PythonFile(file)
                with pa.CompressedInputStream(native, "zstd") as stream:
                    yield io.BufferedReader(stream)
            else:
                yield file if self.filesystem is None else io.BufferedReader(file)


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """The files that inputs name, each once, in the order given.

    A directory gives the files below it whose names say what they hold, sorted by path; names
    that begin with a dot or an underscore are left out. A file that is named itself is text if
    its name does not say otherwise. A URL names a file or a directory of any file system that
    pyarrow or fsspec opens.

    Raises:
        PromptError: There is no such file, or a directory or pattern gives none.
        MissingExtraError: A URL needs packages that are not installed.
    """
    found: dict[tuple[str, str], Source] = {}
    for given in inputs:
        scheme = given.partition("://")[0] if "://" in given else ""
        for source in _remote(given) if scheme else _local(given):
            found.setdefault((scheme, source.path), source)
    return list(found.values())


def _local(given: str) -> list[Source]:
    return [_source(str(path), None, str(path.resolve())) for path in _paths(given)]


def _paths(given: str) -> list[Path]:
    path = Path(given)
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file())
        return [
            path / name for name in _data_files(given, (str(f.relative_to(path)) for f in files))
        ]
    if path.exists():
        return [path]
    matches = sorted(map(Path, glob.glob(given, recursive=True)))  # noqa: PTH207  # also absolute
    if not matches:
        raise PromptError(f"{given}: there is no such file")
    return [
        file for match in matches for file in (_paths(str(match)) if match.is_dir() else [match])
    ]


def _remote(given: str) -> list[Source]:
    """The files of a URL."""
    fs = _pyarrow("URLs").fs
    try:
        filesystem, path = filesystem_of(given)
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.Directory:
            root = info.path.rstrip("/")
            below = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
            files = (item.path[len(root) + 1 :] for item in below if item.is_file)
            return [
                _source(f"{given.rstrip('/')}/{name}", filesystem, f"{root}/{name}")
                for name in _data_files(given, files)
            ]
    except (OSError, ValueError, ImportError) as error:
        raise PromptError(f"{given}: cannot be opened: {reason_of(error)}") from error
    if info.type == fs.FileType.NotFound:
        advice = "; name the directory: a URL is no pattern" if "*" in given else ""
        raise PromptError(f"{given}: there is no such file{advice}")
    return [_source(given, filesystem, path)]


def filesystem_of(url: str) -> tuple[Any, str]:
    """Pyarrow's file system of a URL, or fsspec's; and the path there."""
    pa = _pyarrow("URLs")
    try:
        return tuple(pa.fs.FileSystem.from_uri(url))
    except pa.ArrowInvalid:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(url)
        return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(filesystem)), path


def reason_of(error: Exception) -> str:
    """What a file system says, in a line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _data_files(given: str, names: Iterable[str]) -> list[str]:
    """Those of a directory's files that hold data, sorted."""
    found = sorted(
        (
            name
            for name in names
            if _kind(name)[0] is not None
            and not any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)
        ),
        key=lambda name: PurePosixPath(name).parts,
    )
    if not found:
        raise PromptError(
            f"{given}: has no file to read; expected names that end in "
            f"{', '.join(_FORMATS)}, or in these and {' or '.join(_COMPRESSIONS)}"
        )
    return found


def _source(name: str, filesystem: Any, path: str) -> Source:
    """A file; text where its name does not say otherwise."""
    format_, compression = _kind(name)
    return Source(name, format_ or "text", compression, filesystem, path)


def _kind(name: str) -> tuple[Format | None, Compression]:
    """What a name says of a file: its format, if it is one to read, and its compression."""
    path = PurePosixPath(name)
    compression = _COMPRESSIONS.get(path.suffix.lower(), "")
    format_ = _FORMATS.get((PurePosixPath(path.stem) if compression else path).suffix.lower())
    return None if compression and format_ == "parquet" else format_, compression


def _pyarrow(what: str) -> Any:
    try:
        import pyarrow
        import pyarrow.fs
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{what} need pyarrow, which is not installed: pip install -c constraints.txt "
            "'gpt2ja-onnx[batch]'"
        ) from error
    return pyarrow
