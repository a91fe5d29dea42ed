"""What errors of activations and of the cache cost, and what takes 16 bits for it."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_export.calibration import (
    PRODUCTS,
    Costs,
    choose_wide,
    cut_to_windows,
    input_grams,
    rounding_costs,
    watch,
)
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


SCALES = [(0.05, 0.02)] * 4  # of keys and of values


def with_noise(rows: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return rows + torch.randn(rows.shape, generator=generator) * rows.std() / 50


def rounded(output: Tensor) -> Tensor:
    """Queries, keys and values, as an int8 cache of `SCALES` gives the last two back."""
    queries, keys, values = output.split(256, dim=-1)
    kept = [
        (part / step).round() * step for part, step in zip((keys, values), SCALES[0], strict=True)
    ]
    return torch.cat([queries, *kept], dim=-1)


def test_costs_are_what_is_measured(demo: tuple[GPT2LMHeadModel, Tensor]) -> None:
    model, windows = demo
    costs = rounding_costs(model, windows, with_noise, SCALES)
    assert [*costs.activations] == [(layer, name) for layer in range(4) for name in PRODUCTS]
    assert [*costs.caches] == [0, 1, 2, 3]
    with torch.inference_mode():
        right = model(windows[0]).logits[0].log_softmax(-1)

        def measured() -> float:
            found = model(windows[0]).logits[0].log_softmax(-1)
            return float((right.exp() * (right - found)).sum(-1).mean())

        for layer in range(4):
            block = model.transformer.h[layer].get_submodule("attn.c_attn")
            hook = block.register_forward_hook(lambda *passed: rounded(passed[2]))
            assert costs.caches[layer] == pytest.approx(measured(), rel=0.5)
            hook.remove()
        places: list[tuple[int, Product]] = [
            (0, "mlp.c_proj"), (1, "attn.c_attn"), (3, "mlp.c_fc"),
        ]  # fmt: skip
        for layer, name in places:
            block = model.transformer.h[layer].get_submodule(name)
            hook = block.register_forward_pre_hook(lambda _, given: (with_noise(given[0]),))
            assert costs.activations[layer, name] == pytest.approx(measured(), rel=0.5)
            hook.remove()


def test_the_dearest_take_16_bits(
    demo: tuple[GPT2LMHeadModel, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, windows = demo
    places = [(layer, name) for layer in range(4) for name in PRODUCTS]
    activations = dict(zip(places, [0.5, 0.25] + [0.01] * 14, strict=True))
    costs = Costs(activations, {0: 0.01, 1: 0.25, 2: 0.05, 3: 0.5})
    monkeypatch.setattr("gpt2ja_export.calibration.rounding_costs", lambda *_: costs)
    for limit, chosen, layers in (
        (1, 0, []), (0.6, 1, [3]), (0.2, 2, [1, 3]), (0.105, 6, [1, 3]), (0.02, 15, [1, 2, 3]),
    ):  # fmt: skip
        for name in ("_ACTIVATION_LIMIT", "_CACHE_LIMIT"):
            monkeypatch.setattr(f"gpt2ja_export.calibration.{name}", limit)
        found = choose_wide(model, windows, SCALES)
        assert (len(found.activations), [*found.caches]) == (chosen, layers)


def test_16_bits_bring_a_bundle_nearer_to_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With 8 bits alone the demo model is not let through.
    monkeypatch.setattr("gpt2ja_export.pipeline.check", lambda *_: None)
    figures = []
    for activations, cache in ((0, 0), (16, 0), (16, 4)):
        for name, count in (("_ACTIVATION_LIMIT", activations), ("_CACHE_LIMIT", cache)):
            limit = -1 if count else math.inf
            monkeypatch.setattr(f"gpt2ja_export.calibration.{name}", limit)
        bundle = tmp_path / f"{activations}.{cache}"
        manifest = export_bundle(str(demo_checkpoint()), bundle, ExportSettings())
        called = manifest.quantization[OPERATORS]
        assert called["NormLinearA16" if activations else "NormLinear"] == 4
        assert called["AttentionKV16" if cache else "Attention"] == 4
        assert len(manifest.quantization["activations_16_bits"]) == activations
        assert len(manifest.quantization["cache_16_bits"]) == cache
        figures.append(manifest.verification)
    for found in (figures, [of["with_standard_kernels"] for of in figures if "kernels" in of]):
        for before, after in itertools.pairwise(found):
            assert after["kl_divergence"] < 0.7 * before["kl_divergence"]


def test_grams_are_those_of_all_windows(demo: tuple[GPT2LMHeadModel, Tensor]) -> None:
    model, windows = demo
    halves = windows.view(2, 1, 256)
    seen: list[Tensor] = []

    def see(layer: int, name: Product, given: Tensor, _: Tensor) -> None:
        if (layer, name) == (2, "mlp.c_proj"):
            seen.append(given[0])

    grams = input_grams(model, halves)
    with torch.inference_mode(), watch(model, see):
        for window in halves:
            model(window)
    rows = torch.cat(seen)
    assert rows.shape == (512, 1024)
    torch.testing.assert_close(grams[2, "mlp.c_proj"], rows.T @ rows / 512)
