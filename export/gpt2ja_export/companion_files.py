"""The files beside the graph, in transformers' layout: tokenizer, configuration, settings."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from gpt2ja_export.checkpoint import TOKENIZER_FILES
from gpt2ja_onnx.errors import CheckpointError, SettingError
from gpt2ja_onnx.settings import GenerationConfig

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import GPT2LMHeadModel

    from gpt2ja_export.checkpoint import Checkpoint

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

    Raises:
        CheckpointError: A setting is one that the runtime would refuse.
    """
    config = model.generation_config
    assert config is not None
    # Not save_pretrained: it refuses settings that do nothing, such as top_p without do_sample.
    config.to_json_file(directory / "generation_config.json")
    settings: dict[str, Any] = {
        name: value
        for name, value in config.to_diff_dict().items()
        if isinstance(value, bool | int | float) and not name.startswith("_")
        if not name.endswith("_token_id")
    }
    known = GenerationConfig.__dataclass_fields__
    try:
        GenerationConfig().override({n: value for n, value in settings.items() if n in known})
    except SettingError as error:
        raise CheckpointError(f"{checkpoint.path}: its generation settings: {error}") from error
    return settings
