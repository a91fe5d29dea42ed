"""The manifest of a bundle: what the exporter writes and the runtime checks.

A bundle is a directory with an ONNX graph, the tokenizer's and transformers' files, and a
manifest, ``bundle.json``, that names every file with its size and SHA-256.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from gpt2ja_onnx.bundle.names import CACHE_FILE, MANIFEST_FILE, MODEL_FILE, TOKENIZER_FILE, VERSION
from gpt2ja_onnx.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
CacheType = Literal["float32", "float16", "bfloat16", "int8"]
Graph = Literal["fused", "portable"]
Device = Literal["cpu", "cuda"]
# How a bundle keeps keys and values, by the precision of its weights.
CACHE_TYPES: dict[Precision, CacheType] = {
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "int8": "int8",
    "int4": "int8",
}
_DEVICES: dict[Precision, tuple[Device, ...]] = {"fp16": ("cpu", "cuda"), "bf16": ("cuda",)}
_MOST = 2**31 - 1  # what onnxruntime takes lengths in
_MOST_LAYERS = 10_000
_DEEPEST = 16  # of free-form values: a message of one much deeper could not be made
_MOST_BYTES = 2**63 - 1
_KINDS: dict[Any, str] = {int: "a whole number", str: "a string", bool: "true or false"}
# What bundles made before lack; its default is what they mean.
_LATER = {"tokenizer", "cache_16_bits"}
_hints = functools.cache(get_type_hints)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a GPT-2, and how many candidates its graph returns.

    Attributes:
        cache_16_bits: The layers with an int8 cache that have two bytes of each number, rising.
    """

    layers: int
    width: int
    heads: int
    context: int
    vocab_size: int
    candidates: int
    cache_dtype: CacheType = "float32"
    cache_16_bits: list[int] = field(default_factory=list)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def cache_itemsize(self) -> int:
        """Bytes of one number in the cache."""
        return {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[self.cache_dtype]

    @property
    def cached_sizes(self) -> list[int]:
        """Numbers of the cache for a head's keys, and for its values, at a position, by layer."""
        wide = set(self.cache_16_bits)
        return [self.head_size * (1 + (layer in wide)) for layer in range(self.layers)]


@dataclass(frozen=True, slots=True)
class TokenizerRules:
    """What a checkpoint's tokenizer does beyond its sentencepiece model, in transformers' terms.

    Attributes:
        remove_space: White space at both ends is dropped, and runs of it become one space.
        replace_quotes: Two backquotes, or two apostrophes, become a double quote.
        keep_accents: Marks stay on their letters; else text is decomposed and they are dropped.
        do_lower_case: Letters become lower-case.
        split_commas: A comma behind a digit is a token of its own.
        added_tokens: Ids of texts that are tokens whatever the sentencepiece model says.
        all_special_ids: Ids that stand for no text.
    """

    remove_space: bool = False
    replace_quotes: bool = False
    keep_accents: bool = True
    do_lower_case: bool = False
    split_commas: bool = False
    added_tokens: dict[str, int] = field(default_factory=dict)
    all_special_ids: list[int] = field(default_factory=list)


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
        tokenizer: How text is changed and cut beside the sentencepiece model.
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
    tokenizer: TokenizerRules = field(default_factory=TokenizerRules)

    @property
    def digest(self) -> str:
        """The beginning of a SHA-256 over those of all files: the same for the same bundle."""
        import hashlib  # brings OpenSSL, which loading does without

        sums = "".join(f"{name} {entry.sha256}\n" for name, entry in sorted(self.files.items()))
        return hashlib.sha256(sums.encode()).hexdigest()[:12]


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
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
    try:
        manifest = _parse_manifest(content)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None
    try:
        _check_files(directory, manifest, verify_hashes=verify_hashes)
    except OSError as error:
        raise BundleError(f"{directory}: cannot be read: {error.strerror}") from error
    return manifest


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    import hashlib  # brings OpenSSL, which loading does without

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse_manifest(content: object) -> Manifest:
    if not isinstance(content, dict) or content.get("format") != "gpt2ja-onnx":
        raise BundleError("is not a manifest of this project")
    version = content.get("version")
    if type(version) is not int or version != VERSION:
        raise BundleError(
            f"has version {_short(version)}, this release reads version {VERSION}; update "
            "gpt2ja-onnx or export the bundle again"
        )
    manifest: Manifest = _parse(Manifest, content, "")
    _check_values(manifest)
    return manifest


def _parse(kind: Any, value: object, name: str) -> Any:
    """A value of a manifest as the type that its field has.

    Args:
        kind: A dataclass, a `Literal`, a dict of strings to one of these, a list of them, an
            optional, a plain type, or `Any`.
        value: What JSON has.
        name: Where it stands, for messages.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        _check_depth(value, name, _DEEPEST)
        return value
    if is_dataclass(kind) or origin is dict:
        if not isinstance(value, dict):
            raise BundleError(f"{name} must be an object, not {_short(value)}")
        prefix = f"{name}." if name else ""
        if origin is dict:
            return {
                key: _parse(parts[1], item, prefix + _escaped(key)) for key, item in value.items()
            }
        hints = {
            key: hint for key, hint in _hints(kind).items() if key in value or key not in _LATER
        }
        for key in hints:
            if key not in value:
                raise BundleError(f"cannot be read: KeyError: {prefix}{key} is missing")
        return kind(**{key: _parse(hint, value[key], prefix + key) for key, hint in hints.items()})
    if origin is list:
        if not isinstance(value, list):
            raise BundleError(f"{name} must be a list, not {_short(value)}")
        return [_parse(parts[0], item, f"{name}[{place}]") for place, item in enumerate(value)]
    if origin is Literal:
        if value not in parts:
            raise BundleError(f"{name} must be one of {parts}, not {_short(value)}")
    elif origin is UnionType:
        if value is not None:
            return _parse(parts[0], value, name)
    elif type(value) is not kind:  # True is no whole number
        raise BundleError(f"{name} must be {_KINDS[kind]}, not {_short(value)}")
    return value


def _check_values(manifest: Manifest) -> None:
    """Check numbers and what must fit together."""
    shape = manifest.shape
    for item in fields(shape):
        if item.type == "int":
            most = _MOST_LAYERS if item.name == "layers" else _MOST
            _check_range(f"shape.{item.name}", getattr(shape, item.name), 1, most)
    if shape.width % shape.heads:
        raise BundleError(
            f"the shape is impossible: width {shape.width} is not a multiple of heads {shape.heads}"
        )
    for name, token in manifest.special_ids.items():
        _check_range(f"special_ids.{_escaped(name)}", token, 0, shape.vocab_size - 1)
    rules = manifest.tokenizer
    for name, token in rules.added_tokens.items():
        if not name:
            raise BundleError("tokenizer.added_tokens must have no empty text")
        place = f"tokenizer.added_tokens.{_escaped(name)}"
        _check_range(place, token, 0, shape.vocab_size - 1)
    for token in rules.all_special_ids:
        _check_range("tokenizer.all_special_ids", token, 0, shape.vocab_size - 1)
    for name, entry in manifest.files.items():
        _check_range(f"files.{_escaped(name)}.size", entry.size, 0, _MOST_BYTES)
    precision = manifest.precision
    if shape.cache_dtype != (expected := CACHE_TYPES[precision]):
        raise BundleError(
            f"shape.cache_dtype must be {expected} in {precision}, not {shape.cache_dtype}"
        )
    if (wide := shape.cache_16_bits) and shape.cache_dtype != "int8":
        raise BundleError(f"shape.cache_16_bits must be empty in {precision}")
    if wide != sorted(set(wide) & set(range(shape.layers))):
        raise BundleError(f"shape.cache_16_bits must be rising layers from 0 to {shape.layers - 1}")
    if manifest.device not in (devices := _DEVICES.get(precision, ("cpu",))):
        raise BundleError(f"device must be one of {devices} in {precision}, not {manifest.device}")


def _check_depth(value: object, name: str, left: int) -> None:
    if left == 0:
        raise BundleError(f"{name} is nested more than {_DEEPEST} deep")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, name, left - 1)


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise BundleError(f"{name} must be from {least} to {most}, not {_short(value)}")


def _short(value: object) -> str:
    """A value for a message, on one line and not too long."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _escaped(name: str) -> str:
    """A name for a message, as `_short` but without quotes."""
    return _short(name)[1:].removesuffix("'")


def _check_files(directory: Path, manifest: Manifest, *, verify_hashes: bool) -> None:
    required = [MODEL_FILE, TOKENIZER_FILE]
    if manifest.device == "cuda":
        required.append(CACHE_FILE)
    for name in required:
        if name not in manifest.files:
            raise BundleError(f"{directory}: the manifest names no {name}")
    with os.scandir(directory) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    for name, entry in manifest.files.items():
        path = f"{directory}{os.sep}{_escaped(name)}"
        if os.sep in name:
            raise BundleError(f"{path}: is outside of the bundle, where the file is missing")
        if name not in sizes:
            raise BundleError(f"{path}: the file is missing; export the bundle again")
        if sizes[name] != entry.size:
            raise BundleError(
                f"{path}: has {sizes[name]} bytes, the manifest says {entry.size}; "
                "export the bundle again"
            )
        if verify_hashes and hash_file(directory / name) != entry.sha256:
            raise BundleError(f"{path}: its SHA-256 is not the manifest's; export it again")
