"""The manifest of a bundle: what the exporter writes and the runtime checks.

A bundle is a directory with an ONNX graph, the tokenizer's and transformers' files, and a
manifest, ``bundle.json``, that names every file with its size and SHA-256.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from gpt2ja_onnx.bundle.names import CACHE_FILE, MANIFEST_FILE, MODEL_FILE, TOKENIZER_FILE, VERSION
from gpt2ja_onnx.errors import BundleError

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
CacheType = Literal["float32", "float16", "bfloat16", "int8"]
Graph = Literal["fused", "portable"]
Device = Literal["cpu", "cuda"]
# Fields of the manifest that are JSON objects of any names.
_OBJECTS = (
    "quantization", "special_ids", "generation_defaults", "fusions", "weights", "tools",
    "verification", "files",
)  # fmt: skip
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a GPT-2, and how many candidates its graph returns."""

    layers: int
    width: int
    heads: int
    context: int
    vocab_size: int
    candidates: int
    cache_dtype: CacheType = "float32"

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def cache_itemsize(self) -> int:
        """Bytes of one number in the cache."""
        return {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[self.cache_dtype]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a bundle's weights came from."""

    repository: str
    revision: str | None
    weights_sha256: str
    licence: str | None


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``bundle.json`` says.

    Attributes:
        graph: ``fused`` is what the runtime runs; ``portable`` is Optimum's own graph.
        precision: Of the weights.
        quantization: How they were quantised: method and parameters, free-form.
        device: Kind of device that the graph is made for.
        shape: Sizes of the model.
        special_ids: ``pad``, ``unk``, ``bos``, ``eos``, ``cls`` and ``sep`` where they exist.
        generation_defaults: Settings of the checkpoint's ``generation_config.json``.
        source: Where the weights came from.
        fusions: Rewrites of the exported graph by name, with how often each was made.
        weights: Bytes of the graph's weights by part of the model.
        tools: Versions of the packages that made the bundle.
        verification: Figures of the comparison with PyTorch; empty if it was skipped.
        files: Every file of the bundle but the manifest.
    """

    graph: Graph
    precision: Precision
    quantization: dict[str, Any]
    device: Device
    shape: ModelShape
    special_ids: dict[str, int]
    generation_defaults: dict[str, Any]
    source: Source
    fusions: dict[str, int]
    weights: dict[str, int]
    tools: dict[str, str]
    verification: dict[str, Any]
    files: dict[str, FileEntry] = field(default_factory=dict)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write ``bundle.json`` for the files that `directory` holds now."""
    files = {
        path.name: asdict(FileEntry(path.stat().st_size, hash_file(path)))
        for path in sorted(directory.iterdir())
        if path.name != MANIFEST_FILE
    }
    content = {"format": "gpt2ja-onnx", "version": VERSION} | asdict(manifest) | {"files": files}
    text = json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False)
    (directory / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def read_manifest(directory: Path, *, verify_hashes: bool = False) -> Manifest:
    """Read and check the manifest of the bundle in `directory`.

    Every file must be there with its size; with `verify_hashes` its content is hashed too.

    Raises:
        BundleError: The directory is no bundle, its version is not understood, a value is
            missing or of the wrong type, or a file is missing, cut or altered.
    """
    path = directory / MANIFEST_FILE
    if not directory.is_dir():
        raise BundleError(f"{directory}: no such bundle; make one with `gpt2ja-onnx export`")
    if not path.is_file():
        raise BundleError(f"{directory}: is not a bundle (it has no {MANIFEST_FILE})")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != "gpt2ja-onnx":
            raise BundleError(f"{path}: is not a manifest of this project")
        if content["version"] != VERSION:
            raise BundleError(
                f"{path}: has version {content['version']}, this release reads version "
                f"{VERSION}; update gpt2ja-onnx or export the bundle again"
            )
        manifest = _parse_manifest(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
    _check_files(directory, manifest, verify_hashes=verify_hashes)
    return manifest


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    import hashlib  # brings OpenSSL, which loading does without

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse_manifest(content: dict[str, Any]) -> Manifest:
    _check_choice("graph", content["graph"], get_args(Graph))
    _check_choice("precision", content["precision"], get_args(Precision))
    _check_choice("device", content["device"], get_args(Device))
    values = {item.name: content[item.name] for item in fields(Manifest)}
    for name in _OBJECTS:
        if not isinstance(values[name], dict):
            raise BundleError(f"{MANIFEST_FILE}: {name} must be an object, not {values[name]!r}")
    shape = _parse(ModelShape, content["shape"])
    if shape.layers < 1 or shape.heads < 1 or shape.width % shape.heads or shape.context < 1:
        raise BundleError(f"{MANIFEST_FILE}: the shape is impossible: {shape}")
    return Manifest(
        **values
        | {
            "shape": shape,
            "source": _parse(Source, content["source"]),
            "files": {name: _parse(FileEntry, entry) for name, entry in content["files"].items()},
        }
    )


def _parse(kind: type[_T], content: dict[str, Any]) -> _T:
    return kind(**{item.name: content[item.name] for item in fields(kind)})  # type: ignore[arg-type]


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BundleError(f"{MANIFEST_FILE}: {name} must be one of {choices}, not {value!r}")


def _check_files(directory: Path, manifest: Manifest, *, verify_hashes: bool) -> None:
    required = [MODEL_FILE, TOKENIZER_FILE]
    if manifest.device == "cuda":
        required.append(CACHE_FILE)
    for name in required:
        if name not in manifest.files:
            raise BundleError(f"{directory}: the manifest names no {name}")
    for name, entry in manifest.files.items():
        path = directory / name
        if Path(name).name != name or not path.is_file():
            raise BundleError(f"{path}: the file is missing; export the bundle again")
        if path.stat().st_size != entry.size:
            raise BundleError(
                f"{path}: has {path.stat().st_size} bytes, the manifest says {entry.size}; "
                "export the bundle again"
            )
        if verify_hashes and hash_file(path) != entry.sha256:
            raise BundleError(f"{path}: its SHA-256 is not the manifest's; export it again")
