"""The network that is trained: made from a shape or read from a checkpoint, and saved as one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import sentencepiece

from gpt2ja_onnx.errors import CheckpointError
from gpt2ja_train.tokenizer import special_ids
from gpt2ja_train.vocabulary_transfer import transfer_vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import GPT2LMHeadModel

    from gpt2ja_train.training_settings import TrainingSettings


def make_network(spiece: Path, settings: TrainingSettings) -> GPT2LMHeadModel:
    """A GPT-2 in fp32, with random weights or those of ``settings.init_from``.

    Raises:
        CheckpointError: ``settings.init_from`` cannot be read, or has another context.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    processor = sentencepiece.SentencePieceProcessor(model_file=str(spiece))
    if settings.init_from is not None:
        return _read(settings.init_from, processor, settings)
    config = GPT2Config(
        vocab_size=processor.get_piece_size(),
        n_positions=settings.context,
        n_ctx=settings.context,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        tokenizer_class="BertGenerationTokenizer",
        **_dropouts(settings),
        **special_ids(processor),
    )
    return GPT2LMHeadModel(config)


def save_network(model: Any, tokenizer: Path, output: Path, dtype: str) -> None:
    """Write a Hugging Face checkpoint with its tokenizer and the card's sampling settings."""
    import torch
    from transformers import AutoTokenizer, GenerationConfig

    special = {key: getattr(model.config, key) for key in ("pad_token_id", "bos_token_id")}
    model.generation_config = GenerationConfig(
        do_sample=True,
        top_k=50,
        top_p=0.95,
        eos_token_id=model.config.eos_token_id,
        **special,
    )
    model.to(getattr(torch, dtype)).save_pretrained(output)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(output)


def _read(
    location: str, tokenizer: sentencepiece.SentencePieceProcessor, settings: TrainingSettings
) -> GPT2LMHeadModel:
    import torch
    from transformers import GPT2LMHeadModel
    from transformers.utils.hub import cached_file

    try:
        model, info = GPT2LMHeadModel.from_pretrained(
            location, dtype=torch.float32, output_loading_info=True, **_dropouts(settings)
        )
        spiece = cached_file(location, "spiece.model")
        theirs = sentencepiece.SentencePieceProcessor(model_file=spiece)
    except Exception as error:  # the hub, torch, safetensors and pickle each raise their own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{location}: cannot be read: {reason}") from error
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise CheckpointError(f"{location}: the weights lack {wrong[0]}")
    if model.config.n_positions != settings.context:
        raise CheckpointError(
            f"{location}: has a context of {model.config.n_positions}, expected {settings.context}"
        )
    network: GPT2LMHeadModel = model
    if theirs.serialized_model_proto() != tokenizer.serialized_model_proto():
        kept, pieces = transfer_vocabulary(model, theirs, tokenizer), tokenizer.get_piece_size()
        print(
            f"{location}: had another tokenizer; {kept:,} of {pieces:,} pieces keep their "
            "embeddings, the others begin with means of those",
            file=sys.stderr,
        )
    return network


def _dropouts(settings: TrainingSettings) -> dict[str, float]:
    return dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), settings.dropout)
