"""What an engine counts while it runs; written by its thread, read by any."""

from __future__ import annotations

# Sizes of steps are counted by powers of two, up to this one.
_SIZES = 16


class Counters:
    """Sums since the engine was made.

    Attributes:
        steps: Steps that generated tokens.
        step_tokens: Tokens of all steps: those of prompts that were computed, and generated ones.
        steps_by_size: Steps of at most 1, 2, 4, … tokens, each counted once, and the larger ones.
        prompt_tokens: Tokens of prompts that were given rows.
        shared_tokens: Those among them that were not computed again: another row or an earlier
            prompt had them.
    """

    __slots__ = ("prompt_tokens", "shared_tokens", "step_tokens", "steps", "steps_by_size")

    def __init__(self) -> None:
        self.steps = 0
        self.step_tokens = 0
        self.steps_by_size = [0] * (_SIZES + 1)
        self.prompt_tokens = 0
        self.shared_tokens = 0

    def count_prompt(self, tokens: int, shared: int) -> None:
        """Count a prompt."""
        self.prompt_tokens += tokens
        self.shared_tokens += shared

    def count_step(self, tokens: int) -> None:
        """Count a step."""
        if tokens:
            self.steps += 1
            self.step_tokens += tokens
            self.steps_by_size[min((tokens - 1).bit_length(), _SIZES)] += 1
