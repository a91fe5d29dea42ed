"""Token ids in settings, held against a vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_onnx.errors import SettingError

if TYPE_CHECKING:
    from gpt2ja_onnx.settings.config import GenerationConfig


def check_ids(config: GenerationConfig, vocab_size: int) -> None:
    """Check that every token id of a config is one of the vocabulary.

    Raises:
        SettingError: One is not.
    """
    for setting, ids in (
        ("suppress_tokens", config.suppress_tokens),
        ("bad_words_ids", [token for word in config.bad_words_ids for token in word]),
        ("sequence_bias", [token for word, _ in config.sequence_bias for token in word]),
        ("logit_bias", [token for token, _ in config.logit_bias]),
        ("eos_token_id", config.eos_token_id or ()),
        ("forced_eos_token_id", config.forced_eos_token_id),
    ):
        if (largest := max(ids, default=0)) >= vocab_size:
            raise SettingError(f"{setting} must hold ids below {vocab_size}, not {largest}")
