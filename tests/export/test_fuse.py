"""The rewrites find their structures whatever the sizes, the opset and the head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2ja_export import optimum_export
from gpt2ja_export.fuse import fuse
from gpt2ja_export.verify import verify
from gpt2ja_onnx.bundle.manifest import Manifest, ModelShape, Source
from gpt2ja_onnx.device.cpu.session import CpuSession
from gpt2ja_onnx.errors import ExportError
from tests.tolerances import LOGITS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

VOCABULARY = 40
CONTEXT = 16


def make_model(
    layers: int, width: int, heads: int, *, biases: bool = True, **config: Any
) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": CONTEXT}
    values = {"vocab_size": VOCABULARY, "initializer_range": 0.1}
    model = GPT2LMHeadModel(GPT2Config(**sizes | values | config))
    for name, parameter in model.named_parameters():
        if biases and name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def fuse_and_compare(model: GPT2LMHeadModel, directory: Path) -> dict[str, int]:
    """Export and fuse a model, and hold the graph against it; return the rewrites' counts."""
    config = model.config
    shape = ModelShape(
        layers=config.n_layer, width=config.n_embd, heads=config.n_head, context=CONTEXT,
        vocab_size=VOCABULARY, candidates=8,
    )  # fmt: skip
    optimum_export.export_plain(model, directory / "plain")
    graph = ir.load(directory / "plain" / "model.onnx")
    counts = fuse(graph, shape)
    ir.save(graph, directory / "model.onnx")

    def reference(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = model(torch.from_numpy(ids)[None]).logits[0].numpy()
        return logits

    manifest = Manifest(
        graph="fused", precision="fp32", quantization={}, device="cpu", shape=shape, special_ids={},
        generation_defaults={}, source=Source("random", None, "", None), fusions=counts, weights={},
        tools={}, verification={},
    )  # fmt: skip
    session = CpuSession(directory, manifest, threads=1)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 7).tolist()
    found = verify(session, reference, ids)
    assert found.max_logit_difference <= LOGITS["fp32"]
    assert found.cached_difference <= LOGITS["fp32"]
    assert found.greedy_agreement == 1
    assert (found.batch_difference, found.wrong_candidates) == (0, 0)
    return counts


@pytest.mark.parametrize(
    ("layers", "width", "heads", "tied"),
    [(1, 8, 1, True), (1, 128, 1, False), (2, 24, 3, False), (3, 80, 1, True), (5, 64, 4, False),
     (8, 16, 2, True), (12, 96, 12, True)],
)  # fmt: skip
def test_every_shape_is_fused(
    tmp_path: Path, layers: int, width: int, heads: int, tied: bool
) -> None:
    model = make_model(layers, width, heads, tie_word_embeddings=tied)
    assert fuse_and_compare(model, tmp_path) == {
        "linear": 4 * layers,
        "attention": layers,
        "fast_gelu": layers,
        "embedding": 1,
        "positions": 1,
        "head": 1,
        "candidates": 1,
    }


@pytest.mark.parametrize(
    "config",
    [
        {"n_inner": 20},
        {"layer_norm_epsilon": 1e-2},
        {"reorder_and_upcast_attn": True},
        {"biases": False},  # equal ones are merged
    ],
)
def test_what_a_configuration_may_change(tmp_path: Path, config: dict[str, Any]) -> None:
    assert fuse_and_compare(make_model(2, 16, 2, **config), tmp_path)["attention"] == 2


@pytest.mark.parametrize("opset", [17, 19, 20])
def test_other_opsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opset: int) -> None:
    monkeypatch.setattr(optimum_export, "OPSET", opset)
    assert fuse_and_compare(make_model(2, 16, 2), tmp_path)["fast_gelu"] == 2


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_stored_once_without_accelerate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    """Optimum merges it with accelerate only."""
    monkeypatch.setattr("optimum.exporters.onnx.base.is_accelerate_available", lambda: False)
    fuse_and_compare(make_model(1, 16, 2, tie_word_embeddings=tied), tmp_path)
    weights = ir.load(tmp_path / "model.onnx").graph.initializers.values()
    sizes = [value.const_value.size for value in weights if value.const_value is not None]
    assert sizes.count(VOCABULARY * 16) == (1 if tied else 2)


def test_a_rewrite_that_did_not_happen_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimum_export, "OPSET", 14)  # which has no LayerNormalization
    with pytest.raises(ExportError, match="'norm' was found 0 times, expected 5"):
        fuse_and_compare(make_model(2, 16, 2), tmp_path)
    (tmp_path / "plain" / "model.onnx").unlink()
    monkeypatch.undo()
    relu = make_model(2, 16, 2, activation_function="relu")
    with pytest.raises(ExportError, match="'fast_gelu' was found 0 times, expected 2"):
        fuse_and_compare(relu, tmp_path)
