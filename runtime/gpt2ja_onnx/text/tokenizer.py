"""Text to ids and back, whole or piece by piece, on the bundle's sentencepiece model."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import sentencepiece

from gpt2ja_onnx.errors import BundleError
from gpt2ja_onnx.text.stream import whole_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SPACE = "▁"  # how sentencepiece writes a space inside a piece


class Tokenizer:
    """The tokenizer of a bundle.

    It agrees with transformers' slow `BertGenerationTokenizer`: no special token is added, and
    special tokens, ``<unk>`` among them, are left out of decoded text. Only text that spells a
    special token is read otherwise: ``</s>`` in a text is four characters here, never a control
    token; give ids to use one.

    Attributes:
        vocab_size: Number of pieces.
    """

    def __init__(self, model_file: Path) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
        except (RuntimeError, OSError) as error:
            raise BundleError(f"{model_file}: is not a sentencepiece model") from error
        self.vocab_size: int = self._processor.get_piece_size()
        self._unknown: int = self._processor.unk_id()
        self._texts: dict[int, str | bytes] = {}  # of tokens that were looked up

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; text outside the vocabulary becomes ``<unk>``.

        Lone surrogates, which no UTF-8 file can hold, are taken for unknown characters.
        """
        ids: list[int] = self._processor.encode(_clean(text))
        return ids

    def encode_with_texts(self, text: str) -> tuple[list[int], list[str]]:
        """Ids of `text`, and the part of `text` that each one stands for.

        The parts join to `text`, white space and unknown characters included. A part is empty
        where the tokenizer adds a token, or where a later one completes the character.
        """
        pieces = self._processor.encode(_clean(text), return_type="proto").pieces
        encoded = _clean(text).encode()
        bounds = [0, *(piece.begin for piece in pieces[1:]), len(encoded)]
        parts = [encoded[start:end].decode() for start, end in itertools.pairwise(bounds)]
        return [piece.id for piece in pieces], parts if pieces else []

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens, as a text of its own: stripped."""
        return self.piece_text(ids).strip()

    def piece_text(self, ids: Sequence[int]) -> str:
        """Text of `ids` as a continuation of other text: a leading space stays."""
        return whole_text(self, ids)

    def normalize(self, text: str) -> str:
        """`text` as the tokenizer would read and write it again.

        White space at either end stays, as one space.
        """
        clean = _clean(text)
        core = clean.strip()
        normal: str = self._processor.normalize(core) if core else ""
        normal = normal.replace(_SPACE, " ").strip()
        left = " " if clean[:1].isspace() else ""
        right = " " if core and clean[-1:].isspace() else ""
        return left + normal + right

    def token_text(self, token: int) -> str | bytes:
        """Text of one id, empty for a special token; or a byte of a character.

        Tokenizers with byte fallback spell a rare character in pieces such as <0xE3>.
        """
        try:
            return self._texts[token]
        except KeyError:
            pass
        text: str | bytes = ""
        if self._processor.is_byte(token):
            text = bytes([int(self.piece(token)[1:-1], 16)])
        elif token != self._unknown and not self._processor.is_control(token):
            text = self.piece(token).replace(_SPACE, " ")
        self._texts[token] = text
        return text

    def piece(self, token: int) -> str:
        """The piece of one id as the vocabulary writes it."""
        found: str = self._processor.id_to_piece(token)
        return found


def _clean(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode("utf-8")
