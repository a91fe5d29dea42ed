"""Text to ids and back, whole or piece by piece, on the bundle's sentencepiece model."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import sentencepiece

from gpt2ja_onnx.bundle.manifest import TokenizerRules
from gpt2ja_onnx.errors import BundleError
from gpt2ja_onnx.text.rules import rewrite
from gpt2ja_onnx.text.stream import whole_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_SPACE = "▁"  # how sentencepiece writes a space inside a piece


class Tokenizer:
    """The tokenizer of a bundle.

    It agrees with transformers' slow tokenizer of the checkpoint, `BertGenerationTokenizer` for
    the published model, but for special tokens: none is added, none is shown in decoded text, and
    text that spells one is read as text. ``</s>`` in a prompt is four characters, never a control
    token; give ids to use one.

    Args:
        model_file: The sentencepiece model.
        rules: What the checkpoint's tokenizer does beyond it.
        vocab_size: Of the model, if it may be more than there are pieces.

    Attributes:
        vocab_size: Number of ids.
        pieces: Number of the sentencepiece model's pieces, which have the first ids.
        rules: What it does beyond the sentencepiece model.

    Raises:
        BundleError: The file is no sentencepiece model.
    """

    def __init__(
        self,
        model_file: Path,
        rules: TokenizerRules | None = None,
        vocab_size: int | None = None,
    ) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
        except (RuntimeError, OSError) as error:
            raise BundleError(f"{model_file}: is not a sentencepiece model") from error
        self.rules = rules = rules or TokenizerRules()
        self.pieces: int = self._processor.get_piece_size()
        self.vocab_size = self.pieces if vocab_size is None else vocab_size
        self._unknown: int = self._processor.unk_id()
        self._rewrites = rules != TokenizerRules(
            added_tokens=rules.added_tokens, all_special_ids=rules.all_special_ids
        )
        longest_first = sorted(rules.added_tokens, key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._texts: dict[int, str | bytes] = dict.fromkeys(rules.all_special_ids, "")
        self._texts |= {
            token: text for text, token in rules.added_tokens.items() if token not in self._texts
        }

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; text outside the vocabulary becomes ``<unk>``.

        Lone surrogates, which no UTF-8 file can hold, are taken for unknown characters.
        """
        text = _clean(text)
        if not self.rules.added_tokens and not self._rewrites:
            ids: list[int] = self._processor.encode(text)
            return ids
        return [token for token, _ in self._tokens(text)]

    def encode_with_texts(self, text: str) -> tuple[list[int], list[str]]:
        """Ids of `text`, and the part of `text` that each one stands for.

        The parts join to `text`, white space and unknown characters included. A part is empty
        where the tokenizer adds a token, or where a later one completes the character.
        """
        text = _clean(text)
        tokens = list(self._tokens(text))
        # What stands before the first token belongs to it.
        bounds = [0, *(place for _, place in tokens[1:]), len(text)]
        parts = [text[start:end] for start, end in itertools.pairwise(bounds)]
        return [token for token, _ in tokens], parts if tokens else []

    def _tokens(self, text: str) -> Iterator[tuple[int, int]]:
        """The ids of `text`, and where in it the text of each begins."""
        place = 0
        added = self.rules.added_tokens
        for part in self._added.split(text) if added else [text]:
            if part in added:
                yield added[part], place
            elif self._rewrites:
                changed, places = rewrite(part, self.rules)
                yield from ((token, place + places[i]) for token, i in self._pieces(changed))
            else:
                yield from ((token, place + i) for token, i in self._pieces(part))
            place += len(part)

    def _pieces(self, text: str) -> Iterator[tuple[int, int]]:
        """The pieces of `text`, and where in it the text of each begins."""
        encoded = text.encode()
        read, place = 0, 0
        for piece in self._processor.encode(text, return_type="proto").pieces:
            place += len(encoded[read : piece.begin].decode())
            read = piece.begin
            if self.rules.split_commas and re.fullmatch(r".*\d,", piece.piece, re.DOTALL):
                yield from ((token, place) for token in self._split_comma(piece.piece))
            else:
                yield piece.id, place

    def _split_comma(self, piece: str) -> Iterator[int]:
        """A piece of a digit and a comma as Albert's and XLNet's tokenizers cut it."""
        parts: list[str] = self._processor.encode(piece[:-1].replace(_SPACE, ""), out_type=str)
        if not piece.startswith(_SPACE) and parts[0].startswith(_SPACE):
            parts[:1] = [parts[0][1:]] if len(parts[0]) > 1 else []
        return (self._processor.piece_to_id(part) for part in [*parts, ","])

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
        if self._rewrites:
            core, _ = rewrite(core, self.rules)
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
        if token >= self.pieces:
            pass  # the model's vocabulary is wider than the tokenizer's
        elif self._processor.is_byte(token):
            text = bytes([int(self.piece(token)[1:-1], 16)])
        elif token != self._unknown and not self._processor.is_control(token):
            text = self.piece(token).replace(_SPACE, " ")
        self._texts[token] = text
        return text

    def piece(self, token: int) -> str:
        """The piece of one id as the vocabulary writes it; an id without one in brackets."""
        if token >= self.pieces:
            text = self.token_text(token)
            return text if isinstance(text, str) and text else f"<{token}>"
        found: str = self._processor.id_to_piece(token)
        return found


def _clean(text: str) -> str:
    return text.encode("utf-8", errors="replace").decode("utf-8")
