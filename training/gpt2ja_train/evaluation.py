"""Losses of a trained network on held-out text: line by line, and as running text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import sentencepiece

from gpt2ja_onnx.errors import CorpusError
from gpt2ja_train.blocks import iterate_texts, load_blocks

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset
    from transformers import Trainer


class HeldOut(NamedTuple):
    """A held-out text in blocks of tokens.

    Attributes:
        text: The file, with one sentence a line.
        spiece: The sentencepiece model.
        lines: Blocks of lines that were tokenised one by one, as in training.
        running: Blocks of lines that were joined first, as people write and models are prompted.
    """

    text: Path
    spiece: Path
    lines: Dataset
    running: Dataset


def load_held_out(text: Path, spiece: Path, block_size: int, cache: Path) -> HeldOut:
    """Cut a text in blocks both ways, kept under `cache`.

    Raises:
        CorpusError: The text is shorter than a block.
    """
    lines, running = (
        load_blocks(text, spiece, block_size, cache, running=running) for running in (False, True)
    )
    if not min(len(lines), len(running)):
        raise CorpusError(f"{text}: has no block of {block_size} tokens")
    return HeldOut(text, spiece, lines, running)


def evaluate(trainer: Trainer, held_out: HeldOut) -> dict[str, float]:
    """Loss, perplexity and bits a character of a text.

    Bits a character = loss / ln 2 × tokens / characters, over the whole file without its line
    breaks; the few tokens of the dropped remainder are taken to cost the mean. They compare
    networks of different tokenizers, which losses a token do not.

    Returns:
        By the file's stem: ``…_loss`` in nats a token, ``…_perplexity`` a token, ``…_tokens`` in
        blocks and ``…_bits_per_character``, line by line; ``…_running_bits_per_character``.
    """
    figures = {}
    stem = held_out.text.stem
    for name, blocks in ((stem, held_out.lines), (f"{stem}_running", held_out.running)):
        running = blocks is held_out.running
        loss = trainer.evaluate(blocks, metric_key_prefix=name)[f"{name}_loss"]
        tokens, characters = _count(held_out, running=running)
        if not running:
            figures[f"{name}_loss"] = loss
            figures[f"{name}_perplexity"] = math.exp(loss)
            figures[f"{name}_tokens"] = len(blocks) * len(blocks[0]["input_ids"])
        figures[f"{name}_bits_per_character"] = loss / math.log(2) * tokens / characters
    return figures


def _count(held_out: HeldOut, *, running: bool) -> tuple[int, int]:
    """The numbers of tokens and of characters in a text."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(held_out.spiece))
    tokens = characters = 0
    for part in iterate_texts(str(held_out.text), running=running):
        tokens += len(processor.encode(part))
        characters += len(part)
    return tokens, characters
