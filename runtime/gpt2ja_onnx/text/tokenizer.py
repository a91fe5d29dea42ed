"""Text to ids and back, whole or piece by piece, on the bundle's sentencepiece model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sentencepiece

from gpt2ja_onnx.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SPACE = "▁"  # how sentencepiece writes a space inside a piece


class Tokenizer:
    """The tokenizer of a bundle.

    It agrees with transformers' slow `BertGenerationTokenizer`: no special token is added, and
    special tokens, ``<unk>`` among them, are left out of decoded text.
    """

    def __init__(self, model_file: Path) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
        except (RuntimeError, OSError) as error:
            raise BundleError(f"{model_file}: is not a sentencepiece model") from error
        self.vocab_size: int = self._processor.get_piece_size()
        self._unknown: int = self._processor.unk_id()
        self._texts: dict[int, str | None] = {}  # of tokens that were looked up

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; text outside the vocabulary becomes ``<unk>``.

        Lone surrogates, which no UTF-8 file can hold, are taken for unknown characters.
        """
        clean = text.encode("utf-8", errors="replace").decode("utf-8")
        ids: list[int] = self._processor.encode(clean)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens, as a text of its own: stripped."""
        return self.piece_text(ids).strip()

    def piece_text(self, ids: Sequence[int]) -> str:
        """Text of `ids` as a continuation of other text: a leading space stays."""
        parts: list[str] = []
        spelled = bytearray()
        for token in ids:
            text = self.token_text(token)
            if text is None:
                spelled.append(int(self.piece(token)[1:-1], 16))
                continue
            if spelled:
                parts.append(spelled.decode("utf-8", errors="replace"))
                spelled.clear()
            parts.append(text)
        return "".join(parts) + spelled.decode("utf-8", errors="replace")

    def token_text(self, token: int) -> str | None:
        """Text of one id, empty for a special token; None for one byte of a character.

        Tokenizers with byte fallback spell a rare character in pieces such as <0xE3>.
        """
        try:
            return self._texts[token]
        except KeyError:
            pass
        text: str | None = ""
        if self._processor.is_byte(token):
            text = None
        elif token != self._unknown and not self._processor.is_control(token):
            text = self.piece(token).replace(_SPACE, " ")
        self._texts[token] = text
        return text

    def piece(self, token: int) -> str:
        """The piece of one id as the vocabulary writes it."""
        found: str = self._processor.id_to_piece(token)
        return found
