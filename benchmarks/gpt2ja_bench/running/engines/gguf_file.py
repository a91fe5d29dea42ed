"""A GPT-2 checkpoint as a GGUF file for llama.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np
from sentencepiece import SentencePieceProcessor

from gpt2ja_onnx.bundle import names

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# transformers' names of a layer's parts → GGUF's tensors.
_PARTS = {
    "ln_1": gguf.MODEL_TENSOR.ATTN_NORM,
    "attn.c_attn": gguf.MODEL_TENSOR.ATTN_QKV,
    "attn.c_proj": gguf.MODEL_TENSOR.ATTN_OUT,
    "ln_2": gguf.MODEL_TENSOR.FFN_NORM,
    "mlp.c_fc": gguf.MODEL_TENSOR.FFN_UP,
    "mlp.c_proj": gguf.MODEL_TENSOR.FFN_DOWN,
}


def write_gguf(checkpoint: Path, path: Path) -> None:
    """Write the checkpoint's weights in fp32, and its pieces.

    The benchmark speaks ids; llama.cpp's server turns those that it generates into text.
    """
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(checkpoint, dtype=torch.float32)
    config = model.config
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GPT2])
    writer.add_name("gpt2")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_pieces(writer, checkpoint)

    def add(
        tensor: gguf.MODEL_TENSOR, array: NDArray[np.float32], suffix: str, layer: int = 0
    ) -> None:
        name = gguf.TENSOR_NAMES[tensor].format(bid=layer)
        writer.add_tensor(f"{name}.{suffix}", np.ascontiguousarray(array, dtype=np.float32))

    add(gguf.MODEL_TENSOR.TOKEN_EMBD, weights["transformer.wte.weight"], "weight")
    add(gguf.MODEL_TENSOR.POS_EMBD, weights["transformer.wpe.weight"], "weight")
    for part in ("weight", "bias"):
        add(gguf.MODEL_TENSOR.OUTPUT_NORM, weights[f"transformer.ln_f.{part}"], part)
    if not config.tie_word_embeddings:
        add(gguf.MODEL_TENSOR.OUTPUT, weights["lm_head.weight"], "weight")
    for layer in range(config.n_layer):
        for name, tensor in _PARTS.items():
            for part in ("weight", "bias"):
                # GPT-2's Conv1D keeps (inputs, outputs); GGUF keeps (outputs, inputs). Vectors
                # have no second axis to turn.
                array = weights[f"transformer.h.{layer}.{name}.{part}"].T
                add(tensor, array, part, layer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_pieces(writer: gguf.GGUFWriter, checkpoint: Path) -> None:
    pieces = SentencePieceProcessor(model_file=str(checkpoint / names.TOKENIZER_FILE))
    ids = range(pieces.vocab_size())
    kinds = {
        gguf.TokenType.UNKNOWN: pieces.is_unknown,
        gguf.TokenType.CONTROL: pieces.is_control,
        gguf.TokenType.UNUSED: pieces.is_unused,
        gguf.TokenType.BYTE: pieces.is_byte,
    }
    writer.add_tokenizer_model("llama")  # SentencePiece
    writer.add_vocab_size(len(ids))
    writer.add_token_list([pieces.id_to_piece(i) for i in ids])
    writer.add_token_scores([pieces.get_score(i) for i in ids])
    writer.add_token_types(
        [next((k for k, holds in kinds.items() if holds(i)), gguf.TokenType.NORMAL) for i in ids]
    )
    writer.add_add_bos_token(False)
