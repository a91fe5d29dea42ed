"""A model rewritten for quantisation, which gives what it gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2ja_export.calibration import cut_to_windows, product, watch
from gpt2ja_export.equalize import equalize, even_weights
from tests.conftest import CONTEXT, VOCABULARY

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from gpt2ja_export.calibration import Product


@pytest.fixture
def model(checkpoint: Path) -> GPT2LMHeadModel:
    """The checkpoint, with norms and biases that are not as they were initialised."""
    torch.manual_seed(5)
    model = GPT2LMHeadModel.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" in name or name.endswith("bias"):
                parameter += torch.randn_like(parameter) / 2
    return model


def test_windows() -> None:
    assert cut_to_windows([7, 8, 9], 8).tolist() == [[[7, 8, 9, 7, 8, 9, 7, 8]]]
    windows = cut_to_windows([*range(20)], 8)
    assert windows.shape == (3, 1, 8)
    assert windows.flatten().tolist() == [*range(20), 0, 1, 2, 3]


def test_the_model_gives_what_it_gave(model: GPT2LMHeadModel) -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(6, VOCABULARY, (2, 1, CONTEXT), generator=generator)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = equalize(model, ids[:1])
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    with torch.inference_mode():
        for text in ids:  # the one that was read, and another
            expected, given = model(text).logits, found.model(text).logits
            torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


def test_even_weights_give_what_they_gave(model: GPT2LMHeadModel) -> None:
    ids = torch.randint(6, VOCABULARY, (1, CONTEXT), generator=torch.Generator().manual_seed(1))
    up = [product(model, layer, "mlp.c_fc") for layer in range(2)]
    with torch.no_grad():
        up[1].weight[5] = 0  # a row that says nothing
        up[0].weight[7] *= 30
        before = model(ids).logits
        even_weights(model, [(0, "mlp.c_fc"), (1, "mlp.c_fc"), (1, "mlp.c_proj")])
        torch.testing.assert_close(model(ids).logits, before, rtol=1e-4, atol=1e-4)
    reach = [matrix.weight.detach().abs().amax(dim=1) for matrix in up]
    assert reach[1][5] == 0
    for rows in (reach[0], torch.cat([reach[1][:5], reach[1][6:]])):
        torch.testing.assert_close(rows, rows[:1].expand_as(rows))


def test_inputs_are_centred_and_keys_have_one_range(model: GPT2LMHeadModel) -> None:
    windows = cut_to_windows([*range(6, VOCABULARY)], CONTEXT)
    found = equalize(model, windows)
    inputs: dict[tuple[int, str], list[Tensor]] = {}
    packed: dict[int, list[Tensor]] = {}

    def see(layer: int, name: Product, given: Tensor, output: Tensor) -> None:
        inputs.setdefault((layer, name), []).append(given[0])
        if name == "attn.c_attn":
            packed.setdefault(layer, []).append(output[0])

    with torch.inference_mode(), watch(found.model, see):
        for window in windows:
            found.model(window)
    assert len(inputs) == 4 * model.config.n_layer
    for (_, name), rows in inputs.items():
        if name in ("attn.c_attn", "mlp.c_fc"):
            whole = torch.cat(rows)
            assert whole.mean(dim=0).abs().max() < 1e-3 * whole.abs().max()
    for layer, outputs in packed.items():
        _, keys, values = torch.cat(outputs).split(model.config.n_embd, dim=-1)
        torch.testing.assert_close(keys.amax(dim=0), -keys.amin(dim=0), rtol=1e-3, atol=1e-3)
        assert keys.abs().max() == pytest.approx(1, rel=1e-3)
        assert values.abs().max() == pytest.approx(found.value_ranges[layer])
