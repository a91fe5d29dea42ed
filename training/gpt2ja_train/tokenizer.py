"""A corpus directory to a sentencepiece tokenizer that transformers opens."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sentencepiece

from gpt2ja_onnx.errors import CorpusError, SettingError
from gpt2ja_onnx.files import Product, atomic_directory, check_output_directory

if TYPE_CHECKING:
    from pathlib import Path

# Pieces 0 to 5, in the order of their ids.
SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "cls_token": "<cls>",
    "sep_token": "<sep>",
}
_CLASS = "BertGenerationTokenizer"


def _names(marker: dict[str, Any]) -> list[str] | None:
    """The files of a tokenizer that its configuration stands for."""
    if marker.get("tokenizer_class") != _CLASS:
        return None
    return ["spiece.model", "special_tokens_map.json", "added_tokens.json"]


TOKENIZER = Product("a tokenizer", "tokenizer_config.json", _names)


def special_ids(processor: sentencepiece.SentencePieceProcessor) -> dict[str, int]:
    """The ids of the special tokens, by their names in a model's configuration."""
    return {f"{name}_id": processor.piece_to_id(piece) for name, piece in SPECIAL_TOKENS.items()}


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """How the sentencepiece unigram model is trained; the defaults are the model card's.

    Attributes:
        vocab_size: Number of pieces, the six special ones included.
        sentences: Number of sentences sampled from the training file; bounds the memory used.
        add_dummy_prefix: Put a space before every text, so that a word at its start gets the
            same piece as after a space. Models are trained on text that is tokenised line by
            line: with the prefix each line begins with a space, and so does each sentence that
            the model writes (``…できる。 手法は…``); without it sentences follow each other as in
            Japanese (``…できる。手法は…``). The model card says True, the training code published
            with it says False; the card is followed. At inference the setting is read from the
            tokenizer file.
        threads: Threads of the trainer.
    """

    vocab_size: int = 32_000
    sentences: int = 10_000_000
    add_dummy_prefix: bool = True
    threads: int = 2

    def __post_init__(self) -> None:
        for name in ("vocab_size", "sentences", "threads"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, not {getattr(self, name)}")


def train_tokenizer(
    corpus: Path, output: Path, settings: TokenizerSettings, *, force: bool = False
) -> None:
    """Train on ``corpus/train.txt`` and write a `BertGenerationTokenizer` directory to `output`.

    Raises:
        CorpusError: The corpus has no training file, or too little text for the vocabulary.
        OutputError: `output` is there already and `force` is not set or it holds more than a
            tokenizer, or is, holds or lies inside `corpus`, or cannot be written.
    """
    check_output_directory(output, TOKENIZER, force=force, inputs=[corpus])
    train = corpus / "train.txt"
    if not train.is_file():
        raise CorpusError(f"{train}: no such file; make it with `gpt2ja-onnx train corpus`")
    with atomic_directory(output, TOKENIZER, force=force) as directory:
        try:
            sentencepiece.SentencePieceTrainer.train(
                input=str(train),
                model_prefix=str(directory / "spiece"),
                model_type="unigram",
                vocab_size=settings.vocab_size,
                input_sentence_size=settings.sentences,
                shuffle_input_sentence=True,
                add_dummy_prefix=settings.add_dummy_prefix,
                num_threads=settings.threads,
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                pad_piece="<pad>",
                unk_piece="<unk>",
                bos_piece="<s>",
                eos_piece="</s>",
                control_symbols=["<cls>", "<sep>"],
                minloglevel=1,
            )
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split()).rpartition("] ")[2]
            raise CorpusError(f"{train}: the tokenizer could not be trained: {reason}") from error
        (directory / "spiece.vocab").unlink()
        _save_for_transformers(directory)


def _save_for_transformers(directory: Path) -> None:
    from transformers import BertGenerationTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        special: dict[str, Any] = {**SPECIAL_TOKENS}
        tokenizer = BertGenerationTokenizer(str(directory / "spiece.model"), **special)
        tokenizer.save_pretrained(directory)
