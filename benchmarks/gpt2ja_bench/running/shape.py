"""Sizes of a GPT-2, and what they cost a decoding step."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a GPT-2; the defaults are those of colorfulscoop/gpt2-small-ja."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    context: int = 1024
    vocab_size: int = 32000

    @classmethod
    def read(cls, checkpoint: Path) -> Self:
        """The sizes of a Hugging Face checkpoint."""
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        names = ("n_layer", "n_embd", "n_head", "n_positions", "vocab_size")
        return cls(*(config[name] for name in names))

    def as_dict(self) -> dict[str, int]:
        """For the report."""
        return dataclasses.asdict(self)

    @property
    def parameters(self) -> int:
        """Of the whole model, its head tied to its embedding."""
        width = self.width
        layer = 12 * width**2 + 13 * width
        return self.layers * layer + (self.vocab_size + self.context) * width + 2 * width

    @property
    def step_weights(self) -> int:
        """Weights that a decoding step multiplies with: the layers' products and the head."""
        return self.layers * 12 * self.width**2 + self.vocab_size * self.width


PUBLISHED = Shape()
