"""The files beside the graph, in transformers' layout: tokenizer, configuration, settings."""

from __future__ import annotations

import json
import shutil
import warnings
from typing import TYPE_CHECKING, Any

from gpt2ja_export.checkpoint import TOKENIZER_FILES
from gpt2ja_export.tokenizer_rules import tokenizer_class
from gpt2ja_onnx.errors import CheckpointError, SettingError
from gpt2ja_onnx.settings.config import GenerationConfig
from gpt2ja_onnx.settings.token_ids import check_ids

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
        named["tokenizer_class"] = tokenizer_class(checkpoint.path)
        text = json.dumps(named, ensure_ascii=False, indent=2)
        tokenizer_config.write_text(text + "\n", encoding="utf-8")
    special = _special_ids(checkpoint)
    for name in _SPECIAL:
        value = checkpoint.config.get(f"{name}_token_id")
        if value is not None and not isinstance(value, list) and name not in special:
            warnings.warn(
                f"{checkpoint.path}: config.json has {name}_token_id {value!r}, which is not in "
                f"the vocabulary of {checkpoint.config['vocab_size']}; it is left out",
                RuntimeWarning,
                stacklevel=2,
            )
    return special


def write_generation_config(
    model: GPT2LMHeadModel, checkpoint: Checkpoint, directory: Path
) -> dict[str, Any]:
    """Write the checkpoint's generation settings; return those that differ from the defaults.

    Settings that the runtime does not have are warned of by name.

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
        if not name.startswith("_") and name not in _NO_SETTINGS
    }
    if named.get("top_k", 0) is None:
        named["top_k"] = 0  # which keeps all tokens here, as None does there
    named["eos_token_id"] = _end_tokens(checkpoint)
    known = GenerationConfig.declared()
    settings = {name: value for name, value in named.items() if value is not None}
    if unknown := sorted(set(settings) - set(known)):
        warnings.warn(
            f"{checkpoint.path}: its generation settings name {', '.join(unknown)}, which the "
            "runtime does not have",
            RuntimeWarning,
            stacklevel=2,
        )
    settings = {name: value for name, value in settings.items() if name in known}
    try:
        check_ids(GenerationConfig().override(settings), checkpoint.config["vocab_size"])
    except SettingError as error:
        raise CheckpointError(f"{checkpoint.path}: its generation settings: {error}") from error
    return settings


def _end_tokens(checkpoint: Checkpoint) -> Any:
    """The end tokens that the files name beside the special id; None if there are none.

    Not transformers' value: where no file names one, that is the 50256 of OpenAI's GPT-2.
    """
    path = checkpoint.path / "generation_config.json"
    named = json.loads(path.read_bytes()).get("eos_token_id") if path.is_file() else None
    if named is None:
        named = checkpoint.config.get("eos_token_id")
        return named if isinstance(named, list) else None
    return None if named == _special_ids(checkpoint).get("eos") else named


def _special_ids(checkpoint: Checkpoint) -> dict[str, int]:
    """The special ids of config.json by name; those outside of the vocabulary are left out."""
    ids = {name: checkpoint.config.get(f"{name}_token_id") for name in _SPECIAL}
    size = checkpoint.config["vocab_size"]
    return {name: value for name, value in ids.items() if type(value) is int and 0 <= value < size}
