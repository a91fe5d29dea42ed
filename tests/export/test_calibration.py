"""What goes through the products of a model that reads a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gpt2ja_export.calibration import input_grams, watch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GPT2LMHeadModel

    from gpt2ja_export.calibration import Product


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
