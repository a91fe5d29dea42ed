"""A text file to the stream of token blocks that the model is trained on."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import sentencepiece

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasets import Dataset


# Lines that are joined to one running text.
_JOINED_LINES = 1000


def iterate_texts(path: str, *, running: bool = False) -> Iterator[str]:
    """Yield the texts that a file is tokenised in.

    Args:
        path: UTF-8 text with one sentence a line.
        running: Join stripped lines, a thousand to a text, instead of yielding each.
    """
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - datasets hashes plain strings
        lines = (line.strip() for line in file)
        if not running:
            yield from lines
            return
        while several := [*islice(lines, _JOINED_LINES)]:
            yield "".join(several)


def iterate_blocks(
    text: str, spiece: str, block_size: int, *, running: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield blocks of `block_size` token ids and the ids that follow each of them.

    Every text of `iterate_texts` is encoded without special tokens, all ids are joined to one
    stream and cut in blocks; what is left at the end is dropped (the model card's procedure). A
    block carries one id more than it has positions, so that its last position has a target too.

    Args:
        text: Path of a UTF-8 text file with one sentence a line.
        spiece: Path of the sentencepiece model.
        block_size: Positions a block.
        running: Join lines before they are encoded.

    Yields:
        ``input_ids`` and ``shift_labels``, int32 arrays of shape (block_size,).
    """
    processor = sentencepiece.SentencePieceProcessor(model_file=spiece)
    pending: list[int] = []
    for part in iterate_texts(text, running=running):
        pending += processor.encode(part)
        start = 0
        while len(pending) - start > block_size:
            block = np.array(pending[start : start + block_size + 1], dtype=np.int32)
            start += block_size
            yield {"input_ids": block[:-1], "shift_labels": block[1:]}
        del pending[:start]


def load_blocks(
    text: Path, spiece: Path, block_size: int, cache: Path, *, running: bool = False
) -> Dataset:
    """Return the blocks of `text` as a memory-mapped dataset, kept under `cache`.

    Args:
        text: As `iterate_blocks` takes it.
        spiece: The same.
        block_size: The same.
        cache: Directory of the files behind datasets.
        running: As `iterate_blocks` takes it.
    """
    from datasets import Dataset, Split

    return Dataset.from_generator(
        iterate_blocks,
        gen_kwargs={
            "text": str(text),
            "spiece": str(spiece),
            "block_size": block_size,
            "running": running,
        },
        cache_dir=str(cache),
        split=Split(text.stem),
    ).with_format("torch")


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack blocks to int64 tensors of shape (rows, block_size).

    `labels` only tells transformers to compute a loss; the targets are `shift_labels`.
    """
    import torch

    inputs = torch.stack([row["input_ids"] for row in rows]).long()
    targets = torch.stack([row["shift_labels"] for row in rows]).long()
    return {"input_ids": inputs, "labels": targets, "shift_labels": targets}
