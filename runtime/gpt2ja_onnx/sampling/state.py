"""What the sampler knows of one sequence, and its random stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.sampling.processors import make_processors

if TYPE_CHECKING:
    from gpt2ja_onnx.constraints.constraint import Constraint
    from gpt2ja_onnx.device.base import Ids
    from gpt2ja_onnx.sampling.processors import Processor
    from gpt2ja_onnx.settings.config import GenerationConfig


def random_stream(seed: int, sequence_index: int) -> np.random.Generator:
    """The random stream of one sequence: Philox keyed by (seed, sequence index).

    Counter-based (Salmon et al., 2011), so a stream depends on nothing else that is drawn.
    """
    key = np.array([seed, sequence_index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


@dataclass(slots=True, eq=False)
class SamplerState:
    """What the sampler knows of one sequence.

    Attributes:
        config: The settings of its request.
        eos: The end tokens.
        random: The random stream of the sequence.
        history: Ids of the prompt and of what was generated, shape (length,).
        prompt_length: How many of them are the prompt's.
        max_length: Tokens at which the sequence ends, those of the prompt included.
        constraint: The form of the text, as far as it is left; None where it has none.
        processors: What changes scores by the history, in the order in which it does.
    """

    config: GenerationConfig
    eos: tuple[int, ...]
    random: np.random.Generator
    history: Ids
    prompt_length: int
    max_length: int
    constraint: Constraint | None = None
    processors: list[Processor] = field(init=False)

    def __post_init__(self) -> None:
        self.processors = make_processors(
            self.config, self.eos, self.prompt_length, self.max_length
        )

    @property
    def active(self) -> list[Processor | Constraint]:
        """What would change any score in this step: processors, and last the constraint."""
        found: list[Processor | Constraint] = [
            processor for processor in self.processors if processor.active(self.history)
        ]
        if self.constraint is not None:
            found.append(self.constraint)
        return found

    def possible_tokens(self, vocab_size: int) -> Ids:
        """All tokens, or the only ones that the constraint leaves, where no score rises."""
        if self.constraint is None or not all(kind.lowers_only for kind in self.processors):
            return np.arange(vocab_size, dtype=np.int64)
        return self.constraint.allowed_tokens()

    @property
    def min_tokens_to_keep(self) -> int:
        """Tokens that no warper takes away.

        With beams one more than there are end tokens, so that a text can go on beside those that
        they end.
        """
        return 1 if self.config.num_beams == 1 else max(len(self.eos), 1) + 1

    @property
    def beam_candidates(self) -> int:
        """Continuations that a beam search looks at: enough, though every end token be among them.

        Source: ``beams_to_keep`` in transformers' ``_beam_search``.
        """
        return max(2, 1 + len(self.eos)) * self.config.num_beams

    @property
    def kept_at_most(self) -> int:
        """How many tokens can be kept, not counting ties; 0 means all."""
        config = self.config
        if config.do_sample:
            return max(config.top_k, self.min_tokens_to_keep) if config.top_k else 0
        if config.num_beams == 1:
            return 1
        return 0 if config.renormalize_logits else self.beam_candidates
