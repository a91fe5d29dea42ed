"""Opening a bundle's graph in onnxruntime, alike on every device."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.device.providers import first_line, ort
from gpt2ja_onnx.errors import BundleError, Gpt2jaError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gpt2ja_onnx.bundle.manifest import CacheType, ModelShape

_environment_lock = threading.Lock()
# onnxruntime's names of the types.
_TENSORS: dict[CacheType, str] = {
    "float32": "float", "float16": "float16", "bfloat16": "bfloat16", "int8": "int8",
}  # fmt: skip


def session_options(threads: int) -> ort.SessionOptions:
    """Options of every session.

    Raises:
        SettingError: `threads` is below 1.
    """
    if threads < 1:
        raise SettingError(f"threads must be at least 1, not {threads}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # The exporter has made every fusion; optimising again would only cost load time.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Shapes change from call to call; patterns of them would pile up, and an arena would keep
    # what the longest prompt and the packing of the weights took. Steps are as fast without.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4  # what fails is raised
    return options


def load_graph(
    path: Path, open_graph: Callable[[Path], ort.InferenceSession]
) -> ort.InferenceSession:
    """Open the graph at `path`.

    Raises:
        BundleError: onnxruntime cannot load it.
    """
    try:
        return open_graph(path)
    except Gpt2jaError:
        raise
    except Exception as error:  # onnxruntime's errors derive from nothing better
        raise BundleError(
            f"{path}: onnxruntime cannot load the graph: {first_line(error)}"
        ) from error


def check_inputs(session: ort.InferenceSession, shape: ModelShape, path: Path) -> None:
    """Hold inputs and outputs of a fused graph against the contract.

    Raises:
        BundleError: They are not what the manifest says.
    """
    found = {value.name: value for value in session.get_inputs()}
    expected = {
        names.INPUT_IDS,
        names.POSITION_IDS,
        names.SEQLENS_K,
        names.TOTAL_SEQUENCE_LENGTH,
        names.LOGIT_POSITIONS,
    }
    expected |= {
        names.past_name(layer, part) for layer in range(shape.layers) for part in names.CACHE_PARTS
    }
    if set(found) != expected:
        wrong = sorted(set(found) ^ expected)
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BundleError(
            f"{path}: its inputs are not the manifest's; they differ in {wrong[:3]}{more}"
        )
    kind = found[names.past_name(0, "key")].type
    if kind != f"tensor({_TENSORS[shape.cache_dtype]})":
        raise BundleError(f"{path}: its cache is a {kind}, the manifest says {shape.cache_dtype}")
    for layer, cached_size in enumerate(shape.cached_sizes):
        cache = found[names.past_name(layer, "key")]
        heads, size = cache.shape[1::2]
        if (heads, size) != (shape.heads, cached_size):
            raise BundleError(
                f"{path}: its cache has {heads} heads of {size} in layer {layer}, the manifest "
                f"says {shape.heads} of {cached_size}"
            )
    outputs = {value.name: value.shape for value in session.get_outputs()}
    given = outputs.get(names.CANDIDATE_SCORES, [0])[-1]
    if given != shape.candidates:
        raise BundleError(f"{path}: gives {given} candidates, the manifest says {shape.candidates}")


@contextlib.contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Give a variable of the process a value for a while; one thread at a time."""
    with _environment_lock:
        before = os.environ.get(name)
        os.environ[name] = value
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
