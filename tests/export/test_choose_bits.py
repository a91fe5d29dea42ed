"""What rounding costs, and what takes more bits for it."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest
import torch

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_export.calibration import PRODUCTS, input_grams, product
from gpt2ja_export.choose_bits import bits_of_int4, bits_of_int8
from gpt2ja_export.rounding_costs import Costs, rounding_costs
from gpt2ja_onnx.bundle.demo import demo_checkpoint
from gpt2ja_onnx.device.cpu.native import OPERATORS

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import GPT2LMHeadModel

    from gpt2ja_export.calibration import Place, Product


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

    def error(place: Place, given: Tensor) -> Tensor:
        return (with_noise(given) - given) @ product(model, *place).weight

    costs = rounding_costs(model, windows, error, SCALES)
    assert [*costs.products] == [(layer, name) for layer in range(4) for name in PRODUCTS]
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
            assert costs.products[layer, name] == pytest.approx(measured(), rel=0.5)
            hook.remove()


def test_the_dearest_take_more_bits(
    demo: tuple[GPT2LMHeadModel, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, windows = demo
    places = [(layer, name) for layer in range(4) for name in PRODUCTS]
    products = dict(zip(places, [0.5, 0.25] + [0.01] * 14, strict=True))
    costs = Costs(products, {0: 0.01, 1: 0.25, 2: 0.05, 3: 0.5})
    monkeypatch.setattr("gpt2ja_export.choose_bits.rounding_costs", lambda *_: costs)
    for limit, chosen, layers in (
        (1, 0, []), (0.6, 1, [3]), (0.2, 2, [1, 3]), (0.105, 6, [1, 3]), (0.02, 15, [1, 2, 3]),
    ):  # fmt: skip
        for name in ("_ACTIVATION_LIMIT", "_CACHE_LIMIT", "_INT4_LIMIT", "_INT4_CACHE_LIMIT"):
            monkeypatch.setattr(f"gpt2ja_export.choose_bits.{name}", limit)
        int8 = bits_of_int8(model, windows, SCALES)
        int4 = bits_of_int4(model, windows, SCALES, input_grams(model, windows))
        for bits, places_left in ((int8, int8.places("int8")), (int4, int4.places("int4"))):
            assert [*bits.forms] == places
            assert (len(bits.places("int8_a16")), len(places_left)) == (chosen, 16 - chosen)
            assert [*bits.caches] == layers
        assert [*int4.int4] == [place for place, form in int4.forms.items() if form == "int4"]


def test_16_bits_bring_a_bundle_nearer_to_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With 8 bits alone the demo model is not let through.
    monkeypatch.setattr("gpt2ja_export.pipeline.check", lambda *_: None)
    figures = []
    for activations, cache in ((0, 0), (16, 0), (16, 4)):
        for name, count in (("_ACTIVATION_LIMIT", activations), ("_CACHE_LIMIT", cache)):
            limit = -1 if count else math.inf
            monkeypatch.setattr(f"gpt2ja_export.choose_bits.{name}", limit)
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


def test_8_bits_for_some_weights_bring_int4_nearer_to_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With 4 bits alone the demo model is not let through where the text is long.
    monkeypatch.setattr("gpt2ja_export.pipeline.check", lambda *_: None)
    found = []
    for limit in (math.inf, 1e-2, -1):
        for name in ("_INT4_LIMIT", "_INT4_CACHE_LIMIT"):
            monkeypatch.setattr(f"gpt2ja_export.choose_bits.{name}", limit)
        settings = ExportSettings(precision="int4")
        found.append(export_bundle(str(demo_checkpoint()), tmp_path / str(limit), settings))
    in_8_bits = []
    for manifest in found:
        chosen = manifest.quantization["weights_8_bits"]
        assert chosen == manifest.quantization["activations_16_bits"]
        called = manifest.quantization[OPERATORS]
        assert sum(called[name] for name in called if "Int4" in name) == 16 - len(chosen)
        in_8_bits.append(len(chosen))
    none, some, each = in_8_bits
    assert none == 0 < some < 8 < each == 16
    for figures in (
        [manifest.verification for manifest in found],
        [manifest.verification.get("with_standard_kernels", {}) for manifest in found],
    ):
        for before, after in itertools.pairwise(figures):
            if before:  # there are native operators
                assert after["kl_divergence"] < 0.8 * before["kl_divergence"]
