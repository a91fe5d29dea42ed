"""What rounding costs a model, product by product, estimated by one pass back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gpt2ja_export.calibration import PRODUCTS, watch
from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from transformers import GPT2LMHeadModel

    from gpt2ja_export.calibration import Place, Product


@dataclass(frozen=True, slots=True)
class Costs:
    """KL divergence, nats a token, that each rounding would cost by itself.

    Attributes:
        products: Of what goes into each product.
        caches: Of each layer's keys and values.
    """

    products: dict[Place, float]
    caches: dict[int, float]


def rounding_costs(
    model: GPT2LMHeadModel,
    windows: Tensor,
    error: Callable[[Place, Tensor], Tensor],
    cache_scales: Sequence[tuple[float, float]],
) -> Costs:
    """What rounded products cost, and keys and values of a cache of 8 bits.

    To second order it is ½ E[(∇ log p(y) · δ)²], with y drawn from the model and δ what rounding
    does to the product: the Fisher information of the product's output (Martens, "New insights
    and perspectives on the natural gradient method", 2020, section 6). One pass back serves all.

    Args:
        model: Its weights' ``requires_grad`` is changed.
        windows: From `cut_to_windows`.
        error: What rounding does to a product's output, shape (rows, outputs), where its input
            has the shape (rows, inputs).
        cache_scales: Of keys and of values, by layer.

    Raises:
        ExportError: The model gives NaN or infinities.
    """
    layers, width = range(model.config.n_layer), model.config.n_embd
    costs = Costs(
        dict.fromkeys(((layer, name) for layer in layers for name in PRODUCTS), 0.0),
        dict.fromkeys(layers, 0.0),
    )
    steps = torch.tensor(cache_scales).repeat_interleave(width, dim=1)
    seen: list[tuple[Place, Tensor, Tensor]] = []

    def see(layer: int, name: Product, given: Tensor, output: Tensor) -> None:
        output.retain_grad()
        seen.append(((layer, name), given.detach()[0], output))

    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.requires_grad = parameter is model.transformer.wpe.weight  # and all behind it
    with watch(model, see):
        for window in windows:
            seen.clear()
            logits = model(window).logits[0]
            if not logits.isfinite().all():
                raise ExportError("the scores on the calibration text are not finite")
            with torch.no_grad():
                drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
            torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
            for (layer, name), given, output in seen:
                assert output.grad is not None
                moved = error((layer, name), given)
                costs.products[layer, name] += _cost(output.grad[0], moved) / windows.numel()
                if name == "attn.c_attn":
                    kept = output.detach()[0, :, width:]
                    moved = (kept / steps[layer]).round() * steps[layer] - kept
                    gradient = output.grad[0, :, width:]
                    costs.caches[layer] += _cost(gradient, moved) / windows.numel()
    return costs


def _cost(gradient: Tensor, moved: Tensor) -> float:
    """Nats of all rows together; both of shape (rows, numbers)."""
    return float((gradient * moved).sum(-1).square().sum() / 2)
