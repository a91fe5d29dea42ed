"""The output of a job: its manifest, its locks, and the parts that are done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from gpt2ja_onnx.errors import BatchError, Gpt2jaError, OutputError
from gpt2ja_serve.batch.places import PARTS, place_of
from gpt2ja_serve.batch.sources import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST = "_job.json"  # readers of data sets pass over names that begin so
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
    """The output of a job, locked for one shard as long as it is open, where there are locks.

    Args:
        output: A directory, which is made if need be, or a URL of one.
        shard: Which shard, from 1.
        shards: How many there are.

    Raises:
        OutputError: It is no output of a batch job, or cannot be written.
        BatchError: Another process works on it.
    """

    def __init__(self, output: str, shard: int, shards: int) -> None:
        self._place = place_of(output)
        self._open = contextlib.ExitStack()
        try:
            self._check()
            self._place.prepare()
            self._open.enter_context(self._place.lock(f"{_LOCK}-{shard}-of-{shards}", wait=False))
        except BaseException as error:
            self._place.close(used=True)
            if isinstance(error, Gpt2jaError) or not isinstance(error, OSError):
                raise
            raise OutputError(f"{output}: cannot be written: {reason_of(error)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Unlock; a directory that no job came into is removed."""
        used = True
        with contextlib.suppress(OSError):
            used = self._place.read(MANIFEST) is not None
        self._place.close(used=used)
        self._open.close()

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
        with self._place.lock(_LOCK, wait=True):
            found = self._manifest()
            if found is None:
                if job["seed"] is None:
                    job = job | {"seed": int.from_bytes(os.urandom(8)) >> 11}
                self._write_json(MANIFEST, _KIND | job)
                return int(job["seed"])
        if not resume and not may_join:
            raise BatchError(
                f"{self._place.name}: holds a job already; go on with it with --resume"
            )
        if job["seed"] is None:
            job = job | {"seed": found["seed"]}
        if changes := list(_changes(found, json.loads(json.dumps(_KIND | job)))):
            raise BatchError(
                f"{self._place.name}: holds another job: {'; '.join(changes)}; undo that, or "
                "choose another output"
            )
        return int(found["seed"])

    def done(self, name: str) -> Counts | None:
        """What a part brought; None if it is not done, or its file is not what was written."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(self._place.read(_record(name)) or b"")
            if self._place.sha256(name) == record["sha256"]:
                return Counts(**record["counts"])
        return None

    def recorded(self, name: str) -> bool:
        """Whether a part was done once, whatever has become of it."""
        return self._place.read(_record(name)) is not None

    def temporary(self, name: str) -> Path:
        """Where a part is written before it is whole."""
        return self._place.temporaries / f"{name}.partial"

    def finish(self, name: str, counts: Counts) -> None:
        """Give a part that was written its name, then record it."""
        temporary = self.temporary(name)
        with temporary.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._place.put(name, temporary)
        self._write_json(_record(name), {"sha256": sha256, "counts": counts._asdict()})

    def _check(self) -> None:
        if self._manifest() is not None:
            return
        own = (_LOCK, PARTS, MANIFEST)
        foreign = min(
            (name for name in self._place.names() if not name.startswith(own)), default=None
        )
        if foreign is not None:
            raise OutputError(
                f"{self._place.name}: holds {foreign!r} and is no batch job's output; choose "
                "another output"
            )

    def _manifest(self) -> dict[str, Any] | None:
        try:
            content = self._place.read(MANIFEST)
            if content is None:
                return None
            found = json.loads(content)
            if all(found[key] == value for key, value in _KIND.items()):
                return dict(found)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise OutputError(
            f"{self._place.name}/{MANIFEST}: is no manifest of a batch job; choose another output"
        )

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        temporary = self.temporary(name.rpartition("/")[2])
        text = json.dumps(content, ensure_ascii=False, indent=1)
        temporary.write_text(f"{text}\n", encoding="utf-8")
        self._place.put(name, temporary)


def _record(name: str) -> str:
    return f"{PARTS}/{name}.json"


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
