"""A trained network to another tokenizer's vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_train.tokenizer import special_ids

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from transformers import GPT2LMHeadModel


def transfer_vocabulary(
    model: GPT2LMHeadModel, theirs: SentencePieceProcessor, ours: SentencePieceProcessor
) -> int:
    """Make embedding and head those of `ours`, in place, and the special ids of the configuration.

    A piece that both vocabularies have keeps its row. Any other gets the mean of the rows of the
    pieces that `theirs` cuts it into: fast vocabulary transfer (Gee et al., 2022).

    Args:
        model: Trained with `theirs`, tied or not.
        theirs: The tokenizer that it has.
        ours: The tokenizer that it gets.

    Returns:
        How many pieces both have.
    """
    import torch

    pieces = _pieces(ours)
    known = {piece: row for row, piece in enumerate(_pieces(theirs))}
    rows = [
        [known[piece]] if piece in known else theirs.encode(piece.replace("▁", " ")) or [0]
        for piece in pieces
    ]
    before = [model.transformer.wte.weight, model.lm_head.weight]  # one tensor where tied
    means = [torch.stack([table[row].mean(dim=0) for row in rows]) for table in before]
    model.resize_token_embeddings(len(pieces), mean_resizing=False)  # may keep the tensors
    with torch.no_grad():
        model.transformer.wte.weight.copy_(means[0])
        model.lm_head.weight.copy_(means[1])
    model.config.update(special_ids(ours))
    return sum(piece in known for piece in pieces)


def _pieces(processor: SentencePieceProcessor) -> list[str]:
    pieces: list[str] = processor.id_to_piece(list(range(processor.get_piece_size())))
    return pieces
