"""A model that goes on with another tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from sentencepiece import SentencePieceProcessor
from transformers import GPT2LMHeadModel

from gpt2ja_train.vocabulary_transfer import transfer_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("tied", [True, False])
def test_common_pieces_keep_their_scores_and_others_get_means(
    make_checkpoint: Callable[..., Path],
    tokenizer_dir: Path,
    tokenizer_without_prefix: Path,
    tied: bool,
) -> None:
    theirs, ours = (
        SentencePieceProcessor(model_file=str(directory / "spiece.model"))
        for directory in (tokenizer_dir, tokenizer_without_prefix)
    )
    checkpoint = make_checkpoint(tie_word_embeddings=tied)
    before = GPT2LMHeadModel.from_pretrained(checkpoint)
    after = GPT2LMHeadModel.from_pretrained(checkpoint)
    kept = transfer_vocabulary(after, theirs, ours)

    pieces = [ours.id_to_piece(i) for i in range(ours.get_piece_size())]
    old = {theirs.id_to_piece(i): i for i in range(theirs.get_piece_size())}
    common = [piece for piece in pieces if piece in old]
    assert kept == len(common)
    assert 100 < kept < len(pieces) == after.config.vocab_size
    ids_before = torch.tensor([old[piece] for piece in common])
    ids_after = torch.tensor([pieces.index(piece) for piece in common])
    with torch.inference_mode():
        expected = before(ids_before[None, :64]).logits[..., ids_before]
        given = after(ids_after[None, :64]).logits[..., ids_after]
    torch.testing.assert_close(given, expected)

    new = next(p for p in pieces if p not in old and len(theirs.encode(p)) > 1 and "▁" not in p)
    for name in ("transformer.wte", "lm_head"):
        old, new_table = (model.get_parameter(f"{name}.weight") for model in (before, after))
        mean = old[theirs.encode(new)].mean(dim=0)
        torch.testing.assert_close(new_table[pieces.index(new)], mean)
    assert (after.lm_head.weight is after.transformer.wte.weight) == tied
    assert after.config.eos_token_id == ours.piece_to_id("</s>")
