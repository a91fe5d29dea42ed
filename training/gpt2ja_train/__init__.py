"""The model card's recipe: text to corpus, corpus to tokenizer, both to a GPT-2 checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_onnx.lazy import lazily

if TYPE_CHECKING:
    from gpt2ja_train.corpus import CorpusSettings, make_corpus
    from gpt2ja_train.model import train_model
    from gpt2ja_train.tokenizer import TokenizerSettings, train_tokenizer
    from gpt2ja_train.training_settings import TrainingSettings

__all__ = [
    "CorpusSettings",
    "TokenizerSettings",
    "TrainingSettings",
    "make_corpus",
    "train_model",
    "train_tokenizer",
]

__getattr__ = lazily(
    __name__,
    {
        "CorpusSettings": "corpus",
        "TokenizerSettings": "tokenizer",
        "TrainingSettings": "training_settings",
        "make_corpus": "corpus",
        "train_model": "model",
        "train_tokenizer": "tokenizer",
    },
)
