"""What errors of activations cost, and which products take 16 bits for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_export.calibration import PRODUCTS, activation_costs, calibrate, cut_to_windows, watch
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.bundle.demo import demo_bundle, demo_checkpoint
from gpt2ja_onnx.device.cpu.native import OPERATORS
from tests.conftest import SAMPLE

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from gpt2ja_export.calibration import Product


@pytest.fixture(scope="module")
def demo() -> tuple[GPT2LMHeadModel, Tensor]:
    """The demo model, whose loss is that of trained weights, and a text."""
    model = GPT2LMHeadModel.from_pretrained(demo_checkpoint()).eval()
    with GPT2Ja.load(demo_bundle()) as engine:
        ids = engine.tokenizer.encode(SAMPLE.read_text())
    return model, cut_to_windows(ids[:512], 512)


def with_noise(rows: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return rows + torch.randn(rows.shape, generator=generator) * rows.std() / 50


def test_costs_are_what_is_measured(demo: tuple[GPT2LMHeadModel, Tensor]) -> None:
    model, windows = demo
    costs = activation_costs(model, windows, with_noise)
    assert [*costs] == [(layer, name) for layer in range(4) for name in PRODUCTS]
    with torch.inference_mode():
        right = model(windows[0]).logits[0].log_softmax(-1)
        places: list[tuple[int, Product]] = [
            (0, "mlp.c_proj"), (1, "attn.c_attn"), (3, "mlp.c_fc"),
        ]  # fmt: skip
        for layer, name in places:
            block = model.transformer.h[layer].get_submodule(name)
            hook = block.register_forward_pre_hook(lambda _, given: (with_noise(given[0]),))
            found = model(windows[0]).logits[0].log_softmax(-1)
            hook.remove()
            measured = float((right.exp() * (right - found)).sum(-1).mean())
            assert costs[layer, name] == pytest.approx(measured, rel=0.5)


def test_the_dearest_activations_take_16_bits(
    demo: tuple[GPT2LMHeadModel, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, windows = demo
    grams = calibrate(model, windows, "int8").grams
    costs = dict(zip(grams, [0.5, 0.25] + [0.01] * 14, strict=True))
    monkeypatch.setattr("gpt2ja_export.calibration.activation_costs", lambda *_: costs)
    for limit, chosen in ((1, 0), (0.6, 1), (0.2, 2), (0.105, 6)):
        monkeypatch.setattr("gpt2ja_export.calibration._ACTIVATION_LIMIT", limit)
        assert len(calibrate(model, windows, "int8").wide) == chosen
        assert not calibrate(model, windows, "int4").wide


def test_16_bits_bring_a_bundle_nearer_to_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    for limit, operators in ((math.inf, "NormLinear"), (-1, "NormLinearA16")):
        monkeypatch.setattr("gpt2ja_export.calibration._ACTIVATION_LIMIT", limit)
        bundle = tmp_path / operators
        manifest = export_bundle(str(demo_checkpoint()), bundle, ExportSettings())
        assert manifest.quantization[OPERATORS][operators] == 4
        assert len(manifest.quantization["activations_16_bits"]) == (16 if limit < 0 else 0)
        figures.append(manifest.verification)
    for found in (figures, [of["with_standard_kernels"] for of in figures if "kernels" in of]):
        if found:
            assert found[1]["kl_divergence"] < 0.7 * found[0]["kl_divergence"]


def test_grams_are_those_of_all_windows(demo: tuple[GPT2LMHeadModel, Tensor]) -> None:
    model, windows = demo
    halves = windows.view(2, 1, 256)
    seen: list[Tensor] = []

    def see(layer: int, name: Product, given: Tensor, _: Tensor) -> None:
        if (layer, name) == (2, "mlp.c_proj"):
            seen.append(given[0])

    grams = calibrate(model, halves, "int4").grams
    with torch.inference_mode(), watch(model, see):
        for window in halves:
            model(window)
    rows = torch.cat(seen)
    assert rows.shape == (512, 1024)
    torch.testing.assert_close(grams[2, "mlp.c_proj"], rows.T @ rows / 512)
