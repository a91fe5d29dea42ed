"""How many bits each part of a quantised bundle takes: few, and more where few cost too much."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

import torch

from gpt2ja_export.calibration import PRODUCTS, cut_to_windows, product
from gpt2ja_export.rounding import INT4_BLOCK, int4_blocks
from gpt2ja_export.rounding_costs import rounding_costs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import GPT2LMHeadModel

    from gpt2ja_export.calibration import Place
    from gpt2ja_export.rounding import Int4

_Key = TypeVar("_Key")
# What a product's weights are kept in; its activations take 16 bits with ``int8_a16``.
Form = Literal["int8", "int8_a16", "int4"]
# Nats a token. Of int8 a tenth of what it is to cost in all; of int4, which is to cost less than a
# hundredth of the perplexity, so much that a short text, which tells a third, still is enough.
_ACTIVATION_LIMIT = _CACHE_LIMIT = 5e-5
_INT4_LIMIT, _INT4_CACHE_LIMIT = 3e-3, 5e-4
_COST_TOKENS, _COST_WINDOW = 4096, 256  # a pass back takes memory for each token of a window


@dataclass(frozen=True, slots=True)
class Bits:
    """What a quantised bundle takes 4, 8 and 16 bits for.

    Attributes:
        forms: Of each product, in the order of the graph.
        caches: The layers whose keys and values take 16 bits, rising.
        int4: The weights of the products in int4.
    """

    forms: dict[Place, Form]
    caches: tuple[int, ...]
    int4: dict[Place, Int4] = field(default_factory=dict)

    def places(self, form: Form) -> list[str]:
        """The products of a form, by their names in a checkpoint."""
        found = (place for place, chosen in self.forms.items() if chosen == form)
        return [f"h.{layer}.{name}" for layer, name in found]


def bits_of_int8(
    model: GPT2LMHeadModel, windows: Tensor, cache_scales: Sequence[tuple[float, float]]
) -> Bits:
    """Let activations take 16 bits where they cost most, and so keys and values.

    The others cost no more than 5e-5 nats a token of KL divergence together, in either.

    Args:
        model: An equalised model.
        windows: Of a text, from `cut_to_windows`.
        cache_scales: Of keys and of values, by layer.
    """

    def error(place: Place, given: Tensor) -> Tensor:
        return (_rounded(given) - given) @ product(model, *place).weight

    costs = rounding_costs(model, _short(windows), error, cache_scales)
    wide = _dearest(costs.products, _ACTIVATION_LIMIT)
    return Bits(
        {place: "int8_a16" if place in wide else "int8" for place in _places(model)},
        _dearest_layers(costs.caches, _CACHE_LIMIT),
    )


def bits_of_int4(
    model: GPT2LMHeadModel,
    windows: Tensor,
    cache_scales: Sequence[tuple[float, float]],
    grams: Mapping[Place, Tensor],
) -> Bits:
    """Let weights take 8 bits where 4 cost most; their activations then take 16.

    So do the keys and values of the dearest layers. The others cost no more than 3e-3 nats a token
    of KL divergence together, keys and values 5e-4.

    Args:
        model: An equalised model.
        windows: Of a text, from `cut_to_windows`.
        cache_scales: Of keys and of values, by layer.
        grams: From `input_grams`.
    """
    int4: dict[Place, Int4] = {}
    errors: dict[Place, Tensor] = {}
    for place in _places(model):
        weight = product(model, *place).weight.detach()
        int4[place] = int4_blocks(weight.numpy(), grams[place])
        errors[place] = (int4[place].restored() - weight).half()  # of all weights at once

    def error(place: Place, given: Tensor) -> Tensor:
        rounded = _rounded(given.unflatten(-1, (-1, INT4_BLOCK))).flatten(-2)
        weight = product(model, *place).weight
        return (rounded - given) @ weight + rounded @ errors[place].float()

    costs = rounding_costs(model, _short(windows), error, cache_scales)
    for place in _dearest(costs.products, _INT4_LIMIT):
        del int4[place]
    return Bits(
        {place: "int4" if place in int4 else "int8_a16" for place in _places(model)},
        _dearest_layers(costs.caches, _INT4_CACHE_LIMIT),
        int4,
    )


def _places(model: GPT2LMHeadModel) -> list[Place]:
    return [(layer, name) for layer in range(model.config.n_layer) for name in PRODUCTS]


def _short(windows: Tensor) -> Tensor:
    ids = windows.flatten()[:_COST_TOKENS].tolist()
    return cut_to_windows(ids, min(_COST_WINDOW, windows.shape[-1]))


def _dearest_layers(costs: Mapping[int, float], limit: float) -> tuple[int, ...]:
    return tuple(sorted(_dearest(costs, limit)))


def _dearest(costs: Mapping[_Key, float], limit: float) -> set[_Key]:
    """As few as possible, so that the others cost no more than `limit` together."""
    chosen: set[_Key] = set()
    left = sum(costs.values())
    for key, cost in sorted(costs.items(), key=lambda item: -item[1]):
        if left <= limit:
            break
        chosen.add(key)
        left -= cost
    return chosen


def _rounded(rows: Tensor) -> Tensor:
    """Activations as a product in int8 sees them, with one scale along the last axis."""
    step = rows.abs().amax(dim=-1, keepdim=True) / 127
    return torch.where(step > 0, rows / step, 0).round() * step
