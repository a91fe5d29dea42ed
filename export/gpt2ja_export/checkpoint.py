"""A checkpoint on disk or on the hub: found, checked, and its weights hashed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2ja_export.quiet import quiet
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.bundle.manifest import Source, hash_file
from gpt2ja_onnx.errors import CheckpointError, HubError

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_INDEX = ".index.json"  # beside weights that are cut into several files
TOKENIZER_FILES = (
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_OTHER_FILES = ("config.json", "generation_config.json", "README.md")
_OPTIONAL_JSON = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
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
    for name in _OPTIONAL_JSON:
        if (path / name).is_file():
            _read_json(path / name)
    weights = _weight_files(path)
    if not (path / names.TOKENIZER_FILE).is_file():
        raise CheckpointError(f"{path}: has no {names.TOKENIZER_FILE}")
    source = Source(repository, revision, _hash_weights(weights), _read_licence(path))
    return Checkpoint(path, source, config)


def _download(repository: str, revision: str | None) -> tuple[Path, str]:
    """The repository's snapshot in the hub's local cache, downloaded if the hub answers."""
    from huggingface_hub import HfApi, snapshot_download

    weights = [pattern for name in WEIGHT_FILES for pattern in _patterns(name)]
    problem: Exception | None = None
    try:
        found = HfApi().list_repo_files(repository, revision=revision)
        weights = next(
            (
                _patterns(name)
                for name in WEIGHT_FILES
                if name in found or f"{name}{_INDEX}" in found
            ),
            [],
        )
    except Exception as error:  # the cache may still have it
        problem = error
    try:
        path = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=[*TOKENIZER_FILES, *_OTHER_FILES, *weights],
            local_files_only=problem is not None,
        )
    except Exception as error:
        raise HubError(f"{repository}: {_hub_reason(problem or error)}") from error
    return Path(path), Path(path).name  # the cache names a snapshot by its commit


def _patterns(name: str) -> list[str]:
    """What the files of weights are called, whole or in parts."""
    stem, _, ending = name.partition(".")
    return [name, f"{name}{_INDEX}", f"{stem}-*-of-*.{ending}"]


def _hub_reason(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "its authors ask for a login: `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "is no directory here, and the hub has no such model"
    # The hub's answers are HTTP errors and the disk's have a number; a lost connection is neither.
    answered = isinstance(error, errors.HfHubHTTPError) or getattr(error, "errno", None)
    if isinstance(error, OSError) and not answered:
        return (
            "is no directory here, the hub cannot be reached, and the model is not in its local "
            "cache; offline, give a directory, or no name for the demo model"
        )
    return f"cannot be downloaded: {next(iter(str(error).splitlines()), type(error).__name__)}"


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file.parent}: has no readable {file.name}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, expected an object")
    return content


def _read_config(path: Path) -> dict[str, Any]:
    config = _read_json(path / "config.json")
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
    width, heads = config["n_embd"], config["n_head"]
    if width % heads:
        raise CheckpointError(f"{path}: n_embd {width} is not a multiple of n_head {heads}")
    return config


def _weight_files(path: Path) -> list[Path]:
    """The file of the weights, or those that an index names, in the order of their names."""
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return [path / name]
        if (path / f"{name}{_INDEX}").is_file():
            parts = _read_json(path / f"{name}{_INDEX}").get("weight_map")
            if not isinstance(parts, dict) or not all(type(p) is str for p in parts.values()):
                raise CheckpointError(f"{path / name}{_INDEX}: has no weight_map of file names")
            return [path / part for part in sorted(set(parts.values()))]
    raise CheckpointError(f"{path}: has neither {' nor '.join(WEIGHT_FILES)}, whole or in parts")


def _hash_weights(files: list[Path]) -> str:
    """SHA-256 of a file; of several, over theirs."""
    sums = []
    for file in files:
        try:
            sums.append(hash_file(file))
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def _read_licence(path: Path) -> str | None:
    """The licence that the model card's header names, if there is one; several are joined."""
    from huggingface_hub import ModelCard

    try:
        card = (path / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    try:
        with quiet():  # it warns of a card without a header
            found = ModelCard(card, ignore_metadata_errors=True).data.get("license")
    except Exception:  # a broken header is no reason not to export; yaml's errors are its own
        return None
    licences = found if isinstance(found, list) else [found]
    return ", ".join(str(licence) for licence in licences if licence) or None
