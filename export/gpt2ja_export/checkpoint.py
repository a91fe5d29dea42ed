"""A checkpoint on disk or on the hub: found, checked, and its weights hashed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sentencepiece

from gpt2ja_onnx.bundle import Source, hash_file
from gpt2ja_onnx.errors import CheckpointError, HubError

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
TOKENIZER_FILES = ("spiece.model", "tokenizer_config.json", "special_tokens_map.json")
_OTHER_FILES = ("config.json", "generation_config.json", "README.md")
# Switches of GPT2Config that change the attention's formula; the fused graph has the usual one.
_EXPECTED_SWITCHES = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked Hugging Face checkpoint of a GPT-2.

    Attributes:
        path: Local directory that holds it.
        source: Repository or directory name, revision, hash of the weights, licence.
        config: Content of ``config.json``.
    """

    path: Path
    source: Source
    config: dict[str, Any]

    def load_model(self) -> GPT2LMHeadModel:
        """Load the weights as fp32 PyTorch in evaluation mode.

        Raises:
            CheckpointError: The weights are cut, do not fit the configuration, or hold values
                that are not finite.
        """
        import torch
        from transformers import GPT2LMHeadModel

        try:
            model, info = GPT2LMHeadModel.from_pretrained(
                self.path, dtype=torch.float32, output_loading_info=True, local_files_only=True
            )
        except Exception as error:  # torch, safetensors and pickle each raise their own
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise CheckpointError(f"{self.path}: the weights cannot be read: {reason}") from error
        wrong = sorted(info["missing_keys"]) + sorted(str(k) for k in info["mismatched_keys"])
        if wrong:
            raise CheckpointError(f"{self.path}: the weights lack {wrong[0]}")
        for name, tensor in model.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{self.path}: the weight {name} has NaN or infinite values")
        return model.eval()


def open_checkpoint(location: str, revision: str | None = None) -> Checkpoint:
    """Find the checkpoint `location`, a directory or a hub id, and check everything but weights.

    Raises:
        CheckpointError: A file is missing, the model is no GPT-2, or its tokenizer does not fit.
        HubError: `location` is no directory, and the hub does not give it.
    """
    path = Path(location)
    if path.is_dir():
        if revision is not None:
            raise CheckpointError(f"{location}: is a directory, which has no --revision")
        repository = path.resolve().name
    elif path.exists() or location.startswith((".", "/", "~")) or location.count("/") > 1:
        raise CheckpointError(f"{location}: no such directory")
    else:
        path, revision = _download(location, revision)
        repository = location
    config = _read_config(path)
    weights = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{path}: has neither {' nor '.join(WEIGHT_FILES)}")
    _check_tokenizer(path, config["vocab_size"])
    source = Source(repository, revision, hash_file(weights), _read_licence(path))
    return Checkpoint(path, source, config)


def _download(repository: str, revision: str | None) -> tuple[Path, str | None]:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = [*TOKENIZER_FILES, *_OTHER_FILES]
    try:
        names = set(HfApi().list_repo_files(repository, revision=revision))
        patterns.append(next((name for name in WEIGHT_FILES if name in names), WEIGHT_FILES[0]))
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{repository}: is no directory here, and the hub has no such model"
        ) from error
    except Exception:  # offline in one of many ways: the cache may still have it
        patterns += WEIGHT_FILES
    try:
        path = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"{repository}: is no directory here, the hub cannot be reached, and the model is "
            "not in its local cache; offline, give a directory, or no name for the demo model"
        ) from error
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise HubError(f"{repository}: cannot be downloaded: {reason}") from error
    return path, path.name  # the cache names a snapshot by its commit


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: has no readable config.json") from error
    if config.get("model_type") != "gpt2":
        raise CheckpointError(f"{path}: is a {config.get('model_type')!r} model, not a 'gpt2'")
    if config.get("activation_function", "gelu_new") != "gelu_new":
        raise CheckpointError(
            f"{path}: has activation {config['activation_function']!r}, expected 'gelu_new'"
        )
    for name, expected in _EXPECTED_SWITCHES.items():
        if config.get(name, expected) != expected:
            raise CheckpointError(f"{path}: has {name}={config[name]}, expected {expected}")
    for name in ("n_layer", "n_embd", "n_head", "n_positions", "vocab_size"):
        if not isinstance(config.get(name), int) or config[name] < 1:
            raise CheckpointError(f"{path}: config.json has no usable {name}")
    return config


def _check_tokenizer(path: Path, vocab_size: int) -> None:
    file = path / "spiece.model"
    if not file.is_file():
        raise CheckpointError(f"{path}: has no spiece.model")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{file}: is not a sentencepiece model") from error
    if processor.get_piece_size() != vocab_size:
        raise CheckpointError(
            f"{path}: the tokenizer has {processor.get_piece_size()} pieces, the model "
            f"{vocab_size}; they do not belong together"
        )


def _read_licence(path: Path) -> str | None:
    """The licence that the model card's header names, if there is one."""
    try:
        lines = (path / "README.md").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    if lines[:1] != ["---"]:
        return None
    return next(
        (line.partition(":")[2].strip() for line in lines[1:] if line.startswith("license:")), None
    )
