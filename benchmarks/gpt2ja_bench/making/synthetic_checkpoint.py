"""A checkpoint of the published model's layout and size, with random weights.

Speed, memory and size do not depend on what a model has learnt, so what is measured on it holds
for the published one, which need not be downloaded.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from gpt2ja_bench.running.shape import PUBLISHED, Shape
from gpt2ja_onnx.bundle.demo import demo_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

_SEED = 0
_SPECIAL = {"pad": 0, "unk": 1, "bos": 2, "eos": 3, "cls": 4, "sep": 5}


def make_checkpoint(directory: Path, shape: Shape = PUBLISHED) -> None:
    """Write a Hugging Face checkpoint with seeded random weights to `directory`.

    Its tokenizer is the demo model's, padded with pieces that no text is encoded to.

    Args:
        directory: Is made if it is not there.
        shape: Sizes; the vocabulary must be at least the demo model's.
    """
    import torch
    from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.context,
        n_ctx=shape.context,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        tokenizer_class="BertGenerationTokenizer",
        **{f"{name}_token_id": index for name, index in _SPECIAL.items()},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = GPT2LMHeadModel(config)
        # A fresh GPT-2 has zero biases, which an exporter may merge or drop.
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=config.initializer_range)
    ids = {f"{name}_token_id": _SPECIAL[name] for name in ("pad", "bos", "eos")}
    model.generation_config = GenerationConfig(do_sample=True, top_k=50, top_p=0.95, **ids)
    model.save_pretrained(directory)
    _write_tokenizer(directory, shape.vocab_size)


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    from sentencepiece import sentencepiece_model_pb2

    source = demo_checkpoint()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(source / name, directory / name)
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString((source / "spiece.model").read_bytes())
    assert vocab_size >= len(model.pieces), (vocab_size, len(model.pieces))
    for index in range(len(model.pieces), vocab_size):
        model.pieces.add(piece=f"<unused{index}>", score=0.0, type=model.SentencePiece.UNUSED)
    model.trainer_spec.vocab_size = vocab_size
    (directory / "spiece.model").write_bytes(model.SerializeToString())
