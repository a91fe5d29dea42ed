"""A checkpoint to a bundle: exported through Optimum, fused, quantised, verified."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from gpt2ja_export.checkpoint import open_checkpoint
from gpt2ja_export.companion_files import write_generation_config, write_tokenizer
from gpt2ja_export.limits import check
from gpt2ja_export.optimum_export import export_plain
from gpt2ja_export.quantize_cache import cache_room, cache_scales, quantize_cache
from gpt2ja_export.tokenizer_rules import load_tokenizer
from gpt2ja_export.verify import Verification, as_dict, verify
from gpt2ja_export.weight_sizes import weights_by_part
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.bundle.manifest import (
    CACHE_TYPES,
    CacheType,
    Device,
    Graph,
    Manifest,
    ModelShape,
    Precision,
    write_manifest,
)
from gpt2ja_onnx.device.choice import cuda_problem, obstacles, open_session
from gpt2ja_onnx.device.cpu.native import OPERATORS, STANDARD
from gpt2ja_onnx.device.threads import available_threads
from gpt2ja_onnx.errors import ExportError
from gpt2ja_onnx.files import Product, atomic_directory, check_apart, check_output_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import GPT2LMHeadModel

    from gpt2ja_export.calibration import Place
    from gpt2ja_export.choose_bits import Bits
    from gpt2ja_onnx.device.cpu.native import KernelChoice
    from gpt2ja_onnx.text.tokenizer import Tokenizer

_CALIBRATION_TOKENS = 32_768  # that are read at most; more takes minutes, and gains little
CANDIDATES = 64  # of which the usual top-k of 50 leaves some to spare for ties and penalties
_TOOLS = (
    "gpt2ja-onnx",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "optimum-onnx",
    "torch",
    "transformers",
)
_HEAD_GRAIN = 8  # what onnxruntime's GroupQueryAttention takes
# What the verification of a bundle for cuda misses on a machine without a GPU.
_ONLY_ON_CUDA = "CUDA's kernels, captured decoding, moves of cache rows"
# Tensors below this size stay inside the graph file.
_INLINE_BYTES = 1024
Step = Literal[
    "opening the checkpoint",
    "equalizing",
    "exporting with Optimum",
    "fusing",
    "converting",
    "writing",
    "verifying against PyTorch",
    "hashing",
]
_ONLY_FUSED: tuple[Step, ...] = ("fusing", "converting", "writing")


def _names(manifest: dict[str, Any]) -> list[str] | None:
    """The files of a bundle that its manifest names, of whatever version."""
    named = manifest.get("files")
    ours = manifest.get("format") == "gpt2ja-onnx" and isinstance(named, dict)
    return [*named] if ours and named else None


_BUNDLE = Product("a bundle", names.MANIFEST_FILE, _names)


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """What to export.

    Attributes:
        precision: Of the weights.
        device: Kind of device that the graph is made for.
        graph: ``fused`` for this runtime; ``portable`` keeps Optimum's own graph and files.
        verify: Compare with PyTorch, and fail over the limits of the precision.
        eval_text: UTF-8 text on which perplexity is measured; None takes a short one.
        calibration_text: UTF-8 text that int8 and int4 are fitted to; None takes another short
            one.
    """

    precision: Precision = "int8"
    device: Device = "cpu"
    graph: Graph = "fused"
    verify: bool = True
    eval_text: Path | None = None
    calibration_text: Path | None = None

    def __post_init__(self) -> None:
        if self.device == "cuda" and self.precision not in ("fp16", "bf16"):
            raise ExportError(
                f"--device cuda runs fp16 and bf16, not {self.precision}; the CPU runs fp32, fp16, "
                "int8 and int4"
            )
        if self.device == "cpu" and self.precision == "bf16":
            raise ExportError("bf16 runs on CUDA only; add --device cuda, or choose fp16")
        if self.graph == "portable" and self.precision != "fp32":
            raise ExportError(f"--graph portable is exported in fp32, not {self.precision}")

    @property
    def steps(self) -> tuple[Step, ...]:
        """What `export_bundle` reports, in this order."""
        skipped = set[Step]() if self.graph == "fused" else set(_ONLY_FUSED)
        if CACHE_TYPES[self.precision] != "int8":
            skipped.add("equalizing")
        if not self.verify:
            skipped.add("verifying against PyTorch")
        return tuple(step for step in get_args(Step) if step not in skipped)


def export_bundle(
    location: str,
    output: Path,
    settings: ExportSettings,
    *,
    revision: str | None = None,
    force: bool = False,
    report: Callable[[Step], None] = lambda step: None,
) -> Manifest:
    """Export the checkpoint `location`, a directory or a hub id, to the bundle `output`.

    Args:
        location: See `gpt2ja_export.checkpoint.open_checkpoint`.
        output: The directory to write; whole or absent.
        settings: What to export.
        revision: Of a hub id.
        force: Replace a bundle that is `output` now.
        report: Called with each of the settings' `steps` as it begins.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        HubError: The hub cannot be reached.
        ExportError: A rewrite did not happen, a figure is over its limit, or verifying needs a
            GPU that is not there.
        OutputError: `output` is there already and `force` is not set or it holds more than a
            bundle, or is, holds or lies inside an input, or cannot be written.
    """
    given = (location, settings.eval_text, settings.calibration_text)
    inputs = [place for place in given if place is not None]
    check_output_directory(output, _BUNDLE, force=force, inputs=inputs)
    if settings.verify and settings.precision == "bf16" and (problem := cuda_problem()) is not None:
        raise ExportError(f"bf16 cannot be verified here; add --no-verify, or mend this: {problem}")
    text = _read_text(settings.eval_text, "sample.txt")
    calibration = _read_text(settings.calibration_text, "calibration.txt")
    report("opening the checkpoint")
    checkpoint = open_checkpoint(location, revision)
    check_apart(output, [checkpoint.path])  # the hub's cache, where that is it
    shape = _shape(checkpoint.config, CACHE_TYPES[settings.precision])
    if settings.graph == "fused" and shape.head_size % _HEAD_GRAIN:
        raise ExportError(
            f"the fused attention takes heads of a multiple of {_HEAD_GRAIN}, not of "
            f"{shape.head_size}; --graph portable takes any"
        )
    tokenizer = load_tokenizer(checkpoint, text)
    model = checkpoint.load_model()
    calibration_ids = _encode(tokenizer, calibration)[:_CALIBRATION_TOKENS]
    if not calibration_ids:
        raise ExportError(f"{settings.calibration_text}: the calibration text has no tokens")
    with atomic_directory(output, _BUNDLE, force=force) as directory:
        fusions: dict[str, int] = {}
        quantization: dict[str, Any] = {}
        if settings.graph == "portable":
            report("exporting with Optimum")
            export_plain(model, directory)
        else:
            shape, fusions, quantization = _write_fused(
                model, shape, calibration_ids, directory, settings, report
            )
        special = write_tokenizer(checkpoint, directory)
        figures: dict[str, Any] = {}
        manifest = Manifest(
            graph=settings.graph,
            precision=settings.precision,
            quantization=quantization,
            device=settings.device,
            shape=shape,
            special_ids=special,
            tokenizer=tokenizer.rules,
            generation_defaults=write_generation_config(model, checkpoint, directory),
            source=checkpoint.source,
            fusions=fusions,
            weights=weights_by_part(directory / names.MODEL_FILE),
            tools=_tool_versions(),
            verification=figures,
        )
        if settings.verify:
            report("verifying against PyTorch")
            measured_on = settings.eval_text.name if settings.eval_text else "the built-in sample"
            figures |= {"text": measured_on}
            figures |= _verify(directory, manifest, model, _encode(tokenizer, text))
        report("hashing")
        write_manifest(directory, manifest)
    return manifest


def _tool_versions() -> dict[str, str]:
    versions = {}
    for name in _TOOLS:
        with contextlib.suppress(PackageNotFoundError):  # one build of onnxruntime is there
            versions[name] = version(name)
    return versions


def _read_text(path: Path | None, ours: str) -> str:
    if path is None:
        return (files("gpt2ja_export") / ours).read_text(encoding="utf-8")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def _write_fused(
    model: GPT2LMHeadModel,
    shape: ModelShape,
    calibration_ids: list[int],
    directory: Path,
    settings: ExportSettings,
    report: Callable[[Step], None],
) -> tuple[ModelShape, dict[str, int], dict[str, Any]]:
    import onnx_ir as ir
    from onnx_ir.passes import common

    from gpt2ja_export.cache_move_graph import cache_move_graph
    from gpt2ja_export.calibration import cut_to_windows, input_grams
    from gpt2ja_export.choose_bits import bits_of_int4, bits_of_int8
    from gpt2ja_export.convert_precision import convert_precision
    from gpt2ja_export.equalize import equalize, even_weights
    from gpt2ja_export.fuse import fuse
    from gpt2ja_export.outline_operators import outline_operators

    windows = cut_to_windows(calibration_ids, shape.context)
    room = cache_room(len(calibration_ids))
    scales: list[tuple[float, float]] = []
    bits: Bits | None = None
    grams: dict[Place, Tensor] = {}
    if shape.cache_dtype == "int8":
        report("equalizing")
        equal = equalize(model, windows)
        model = equal.model
        scales = cache_scales(equal.value_ranges, room)
        if settings.precision == "int8":
            bits = bits_of_int8(model, windows, scales)
            even_weights(model, [p for p, form in bits.forms.items() if form == "int8_a16"])
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".plain.") as plain:
        report("exporting with Optimum")
        export_plain(model, Path(plain))
        graph: ir.Model = ir.load(Path(plain) / "model.onnx")
        report("fusing")
        fusions = fuse(graph, shape, settings.device)
        report("converting")
        quantization: dict[str, Any] = {}
        if shape.cache_dtype == "int8":
            # Half a gigabyte at the published size, so not before Optimum's export.
            grams = input_grams(model, windows)
            bits = bits or bits_of_int4(model, windows, scales, grams)
            shape = replace(shape, cache_16_bits=[*bits.caches])
            quantize_cache(graph, shape, scales)
            quantization |= {"cache": "int8 per layer, keys of equal range", "cache_room": room}
            quantization["cache_16_bits"] = [f"h.{layer}" for layer in bits.caches]
        quantization |= convert_precision(graph, shape, settings.precision, bits, grams)
        if bits is not None:
            quantization[OPERATORS] = outline_operators(graph, shape, bits.forms)
        common.RemoveUnusedNodesPass()(graph)
        graph.graph.name = "gpt2ja_onnx"
        report("writing")
        # A file of its own for the weights can be mapped into memory instead of being parsed.
        ir.save(
            graph,
            directory / names.MODEL_FILE,
            external_data=f"{names.MODEL_FILE}.data",
            size_threshold_bytes=_INLINE_BYTES,
        )
    if settings.device == "cuda":
        ir.save(cache_move_graph(), directory / names.CACHE_FILE)
    return shape, fusions, quantization


def _shape(config: dict[str, Any], cache_dtype: CacheType) -> ModelShape:
    return ModelShape(
        layers=config["n_layer"],
        width=config["n_embd"],
        heads=config["n_head"],
        context=config["n_positions"],
        vocab_size=config["vocab_size"],
        candidates=min(CANDIDATES, config["vocab_size"]),
        cache_dtype=cache_dtype,
    )


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return [token for line in text.splitlines() for token in tokenizer.encode(line.strip())]


def _verify(
    directory: Path, manifest: Manifest, model: GPT2LMHeadModel, text_ids: list[int]
) -> dict[str, Any]:
    """Figures of the bundle as it runs here; where native operators run, without them too."""
    import torch

    def reference(prompt: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = model(torch.from_numpy(prompt)[None]).logits[0].numpy()
        return logits

    if manifest.graph == "portable":
        from gpt2ja_export.portable_session import PortableSession

        portable = PortableSession(directory, manifest, threads=available_threads())
        return _checked(verify(portable, reference, text_ids), manifest)
    device: Device = "cuda" if obstacles(manifest)["cpu"] else "cpu"

    def figures(kernels: KernelChoice) -> tuple[str, dict[str, Any]]:
        _, session = open_session(
            directory, manifest, threads=available_threads(), device=device, kernels=kernels
        )
        return session.kernels, _checked(verify(session, reference, text_ids), manifest)

    kernels, found = figures("auto")
    if device != manifest.device:
        found["not_verified"] = _ONLY_ON_CUDA
    if device == "cpu" and kernels != STANDARD:
        found |= {"kernels": kernels, "with_standard_kernels": figures("off")[1]}
    return found


def _checked(found: Verification, manifest: Manifest) -> dict[str, Any]:
    check(found, manifest.precision)
    return as_dict(found)
