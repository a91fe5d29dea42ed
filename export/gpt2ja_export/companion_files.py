"""The files beside the graph, in transformers' layout: tokenizer, configuration, settings."""

from __future__ import annotations

import json
import shutil
import warnings
from typing import TYPE_CHECKING, Any

from gpt2ja_export.checkpoint import TOKENIZER_FILES
from gpt2ja_onnx.errors import CheckpointError, SettingError
from gpt2ja_onnx.settings.config import GenerationConfig

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import GPT2LMHeadModel

    from gpt2ja_export.checkpoint import Checkpoint

# Of a generation_config.json: what says nothing about how text is continued here.
_NO_SETTINGS = {
    "bos_token_id", "cache_implementation", "decoder_start_token_id", "output_attentions",
    "output_hidden_states", "output_logits", "output_scores", "pad_token_id",
    "return_dict_in_generate", "transformers_version", "use_cache",
}  # fmt: skip
_SPECIAL = ("pad", "unk", "bos", "eos", "cls", "sep")


def write_tokenizer(checkpoint: Checkpoint, directory: Path) -> dict[str, int]:
    """Copy the tokenizer and configuration; return the ids of the special tokens."""
    for name in (*TOKENIZER_FILES, "config.json"):
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, directory / name)
    tokenizer_config = directory / "tokenizer_config.json"
    named = json.loads(tokenizer_config.read_bytes()) if tokenizer_config.is_file() else {}
    if "tokenizer_class" not in named:
        # AutoTokenizer would have to guess.
        named["tokenizer_class"] = "BertGenerationTokenizer"
        text = json.dumps(named, ensure_ascii=False, indent=2)
        tokenizer_config.write_text(text + "\n", encoding="utf-8")
    ids = {name: checkpoint.config.get(f"{name}_token_id") for name in _SPECIAL}
    return {name: value for name, value in ids.items() if isinstance(value, int)}


def write_generation_config(
    model: GPT2LMHeadModel, checkpoint: Checkpoint, directory: Path
) -> dict[str, Any]:
    """Write the checkpoint's generation settings; return those that differ from the defaults.

    Settings that the runtime does not know are warned of by name.

    Raises:
        CheckpointError: A setting is one that the runtime would refuse.
    """
    config = model.generation_config
    assert config is not None
    # Not save_pretrained: it refuses settings that do nothing, such as top_p without do_sample.
    config.to_json_file(directory / "generation_config.json")
    named = {
        name: value
        for name, value in config.to_diff_dict().items()
        if value is not None and not name.startswith("_") and name not in _NO_SETTINGS
    }
    known = GenerationConfig.declared()
    if unknown := sorted(set(named) - set(known)):
        warnings.warn(
            f"{checkpoint.path}: its generation settings name {', '.join(unknown)}, which the "
            "runtime does not have",
            RuntimeWarning,
            stacklevel=2,
        )
    settings = {name: value for name, value in named.items() if name in known}
    eos = settings.get("eos_token_id")
    if isinstance(eos, int) and eos == checkpoint.config.get("eos_token_id"):
        del settings["eos_token_id"]  # the special ids have it
    try:
        GenerationConfig().override(settings)
    except SettingError as error:
        raise CheckpointError(f"{checkpoint.path}: its generation settings: {error}") from error
    return settings
