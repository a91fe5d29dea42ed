"""The output directory of a job: its manifest, its locks, and the parts that are done."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

from gpt2ja_onnx.errors import BatchError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST = "_job.json"  # readers of data sets pass over names that begin so
_PARTS = "_parts"
_LOCK = "_lock"
_KIND = {"kind": "gpt2ja-onnx batch", "version": 1}


class Counts(NamedTuple):
    """What a part brought, or several.

    Attributes:
        rows: Rows of the input.
        outputs: Rows of the output.
        errors: Rows of the input that failed.
        tokens: Tokens that were generated, or scored.
    """

    rows: int = 0
    outputs: int = 0
    errors: int = 0
    tokens: int = 0

    def plus(self, other: Counts) -> Counts:
        """The sum."""
        return Counts(*(one + two for one, two in zip(self, other, strict=True)))


class JobDirectory:
    """An output directory, locked for one shard of a job as long as it is open.

    Args:
        path: The directory, which is made if need be.
        shard: Which shard, from 1.
        shards: How many there are.

    Raises:
        OutputError: It is no directory of a batch job, or cannot be written.
        BatchError: Another process works on it.
    """

    def __init__(self, path: Path, shard: int, shards: int) -> None:
        self._path = path
        self._check()
        try:
            (path / _PARTS).mkdir(parents=True, exist_ok=True)
            self._lock = (path / f"{_LOCK}-{shard}-of-{shards}").open("w")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise BatchError(f"{path}: another process works on this job; wait for it") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Unlock; a directory that no job came into is removed."""
        if not (self._path / MANIFEST).exists():
            with contextlib.suppress(OSError):
                (self._path / _PARTS).rmdir()
                for lock in self._path.glob(f"{_LOCK}*"):
                    lock.unlink()
                self._path.rmdir()
        self._lock.close()

    def begin(self, job: dict[str, Any], *, resume: bool, may_join: bool) -> int:
        """Write the manifest, or hold the one that is there to the job.

        Args:
            job: What the results depend on. A ``seed`` of None takes that of the manifest, or
                one that is drawn.
            resume: Go on with a job that began before.
            may_join: Take part in a job that another shard began.

        Returns:
            The job's seed.

        Raises:
            BatchError: A job began here before and `resume` is not set, or it is another job.
        """
        with (self._path / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self._manifest()
            if found is None:
                if job["seed"] is None:
                    job = job | {"seed": int.from_bytes(os.urandom(8)) >> 11}
                self._write_json(self._path / MANIFEST, _KIND | job)
                return int(job["seed"])
        if not resume and not may_join:
            raise BatchError(f"{self._path}: holds a job already; go on with it with --resume")
        if job["seed"] is None:
            job = job | {"seed": found["seed"]}
        if changes := list(_changes(found, json.loads(json.dumps(_KIND | job)))):
            raise BatchError(
                f"{self._path}: holds another job: {'; '.join(changes)}; undo that, or choose "
                "another output"
            )
        return int(found["seed"])

    def done(self, name: str) -> Counts | None:
        """What a part brought; None if it is not done, or its file is not what was written."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(self._record(name).read_text(encoding="utf-8"))
            with (self._path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == record["sha256"]:
                    return Counts(**record["counts"])
        return None

    def recorded(self, name: str) -> bool:
        """Whether a part was done once, whatever has become of it."""
        return self._record(name).exists()

    def temporary(self, name: str) -> Path:
        """Where a part is written before it is whole."""
        return self._path / _PARTS / f"{name}.partial"

    def finish(self, name: str, counts: Counts) -> None:
        """Give a part that was written its name, then record it."""
        temporary = self.temporary(name)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        temporary.replace(self._path / name)
        self._write_json(self._record(name), {"sha256": sha256, "counts": counts._asdict()})

    def _record(self, name: str) -> Path:
        return self._path / _PARTS / f"{name}.json"

    def _check(self) -> None:
        path = self._path
        if path.is_symlink() and not path.exists():
            raise OutputError(f"{path}: is a link that leads nowhere")
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path}: exists and is not a directory")
        if not path.exists() or self._manifest() is not None:
            return
        own = (_LOCK, _PARTS, MANIFEST)
        foreign = min(
            (item.name for item in path.iterdir() if not item.name.startswith(own)), default=None
        )
        if foreign is not None:
            raise OutputError(
                f"{path}: holds {foreign!r} and is no batch job's output; choose another output"
            )

    def _manifest(self) -> dict[str, Any] | None:
        file = self._path / MANIFEST
        if not file.exists():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if all(found[key] == value for key, value in _KIND.items()):
                return dict(found)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise OutputError(f"{file}: is no manifest of a batch job; choose another output")

    def _write_json(self, path: Path, content: dict[str, Any]) -> None:
        temporary = self._path / _PARTS / f"{path.name}.partial"
        with temporary.open("w", encoding="utf-8") as file:
            _dump(file, content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _dump(file: IO[str], content: dict[str, Any]) -> None:
    json.dump(content, file, ensure_ascii=False, indent=1)
    file.write("\n")


def _changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """What differs between two jobs, in words."""
    for key in new:
        was, now = old.get(key), new[key]
        if was == now:
            continue
        if key == "inputs" and isinstance(was, list):
            yield from _changed_inputs(was, now)
        elif isinstance(now, dict) and isinstance(was, dict):
            for name in sorted(was.keys() | now.keys()):
                if was.get(name) != now.get(name):
                    yield f"{name} is {_shown(now.get(name))}, was {_shown(was.get(name))}"
        else:
            yield f"{key} is {_shown(now)}, was {_shown(was)}"


def _changed_inputs(was: list[dict[str, Any]], now: list[dict[str, Any]]) -> Iterator[str]:
    """Inputs are known by their content; a file may have moved."""
    if len(was) != len(now):
        yield f"there are {len(now)} input files, there were {len(was)}"
        return
    for one, two in zip(was, now, strict=True):
        if one["sha256"] != two["sha256"]:
            yield f"the input {two['path']} has changed"


def _shown(value: Any) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)
