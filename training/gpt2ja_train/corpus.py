"""Raw text to a corpus directory: train, valid and test files with one sentence a line."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

from gpt2ja_onnx.errors import CorpusError, SettingError
from gpt2ja_onnx.files import Product, atomic_directory, check_output_directory
from gpt2ja_train.sources import read_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

Part = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")
_MARKER = "corpus.json"


def _names(marker: dict[str, Any]) -> list[str] | None:
    """The files of a corpus that its marker stands for."""
    return [f"{part}.txt" for part in PARTS] if {"lines", "settings"} <= marker.keys() else None


CORPUS = Product("a corpus", _MARKER, _names)


@dataclass(frozen=True, slots=True)
class CorpusSettings:
    """How a corpus is split.

    Attributes:
        split: ``lines`` takes the first lines for valid and the next for test, as the model
            card does; ``documents`` takes documents by a hash of their id; ``auto`` takes
            documents where the source names them, and lines where it does not.
        valid_lines: Lines of the valid file under ``lines``.
        test_lines: Lines of the test file under ``lines``.
        held_out: Share of the documents in each of valid and test under ``documents``.
    """

    split: Literal["auto", "documents", "lines"] = "auto"
    valid_lines: int = 500_000
    test_lines: int = 500_000
    held_out: float = 0.02

    def __post_init__(self) -> None:
        if self.valid_lines < 0 or self.test_lines < 0:
            raise SettingError("valid_lines and test_lines must not be negative")
        if not 0 <= self.held_out < 0.5:
            raise SettingError(f"held_out must be at least 0 and below 0.5, not {self.held_out}")


def split_sentences(line: str) -> Iterator[str]:
    """Yield the stripped, non-empty sentences of `line`: a sentence ends after every 。."""
    for sentence in line.replace("。", "。\n").split("\n"):
        if stripped := sentence.strip():
            yield stripped


def make_corpus(
    inputs: Sequence[str],
    output: Path,
    settings: CorpusSettings,
    *,
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    force: bool = False,
) -> dict[str, int]:
    """Write ``train.txt``, ``valid.txt``, ``test.txt`` and ``corpus.json`` to `output`.

    Args:
        inputs: Sources as `gpt2ja_train.sources.read_source` takes them.
        output: The directory to write; whole or absent.
        settings: How to split `inputs`.
        valid: Sources held out already; where `valid` or `test` is given, `inputs` is not split.
        test: As `valid`, for the test file.
        force: Replace a corpus that is `output` now.

    Returns:
        The number of lines of every part.

    Raises:
        CorpusError: A source cannot be read, or a part came out empty.
        OutputError: `output` is there already and `force` is not set or it holds more than a
            corpus, or is, holds or lies inside a source, or cannot be written.
    """
    check_output_directory(output, CORPUS, force=force, inputs=[*inputs, *valid, *test])
    counts: dict[str, int] = dict.fromkeys(PARTS, 0)
    with atomic_directory(output, CORPUS, force=force) as directory:
        with contextlib.ExitStack() as stack:
            files = {
                part: stack.enter_context((directory / f"{part}.txt").open("w", encoding="utf-8"))
                for part in PARTS
            }
            if valid or test:
                for part, sources in zip(PARTS, (inputs, valid, test), strict=True):
                    counts[part] = _write_all(sources, files[part])
            else:
                for part, sentence in _split(inputs, settings):
                    files[part].write(sentence + "\n")
                    counts[part] += 1
        if not all(counts.values()):
            found = ", ".join(f"{part} {count}" for part, count in counts.items())
            raise CorpusError(
                f"a part of the corpus is empty (lines: {found}): give more text, lower "
                "--valid-lines and --test-lines, or name files with --valid and --test"
            )
        manifest = {"lines": counts, "inputs": [*inputs], "valid": [*valid], "test": [*test]}
        (directory / _MARKER).write_text(
            json.dumps(manifest | {"settings": asdict(settings)}, ensure_ascii=False, indent=2)
        )
    return counts


def _write_all(sources: Iterable[str], file: TextIO) -> int:
    count = 0
    for source in sources:
        for line in read_source(source):
            for sentence in split_sentences(line.text):
                file.write(sentence + "\n")
                count += 1
    return count


def _split(inputs: Iterable[str], settings: CorpusSettings) -> Iterator[tuple[Part, str]]:
    seen = 0
    for source in inputs:
        for line in read_source(source):
            if settings.split == "documents" and line.document is None:
                raise CorpusError(f"{source}: names no documents; use --split lines")
            for sentence in split_sentences(line.text):
                if line.document is None or settings.split == "lines":
                    yield _part_by_line(seen, settings), sentence
                    seen += 1
                else:
                    yield _part_by_document(line.document, settings.held_out), sentence


def _part_by_line(number: int, settings: CorpusSettings) -> Part:
    if number < settings.valid_lines:
        return "valid"
    return "test" if number < settings.valid_lines + settings.test_lines else "train"


def _part_by_document(document: str, held_out: float) -> Part:
    digest = hashlib.blake2b(document.encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    if position < held_out:
        return "valid"
    return "test" if position < 2 * held_out else "train"
