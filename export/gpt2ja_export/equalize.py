"""A checkpoint's weights rewritten so that quantisation loses less, and the model stays the same.

Neighbours that are linear can share out scales and offsets in any way. Where one of the two is
quantised, some ways are better:

- The input of a product behind a norm. A channel's mean is taken off the norm's beta, and what the
  matrix makes of it is added to the bias; then the channel is divided by a factor, and its row of
  the matrix multiplied by it, so that large channels of the one meet small ones of the other:
  channel-wise shifting and scaling (Wei et al., "Outlier Suppression+", 2023), with the factors of
  SmoothQuant (Xiao et al., 2023) at α = 0.5.
- The same input where it takes 16 bits: then the weights alone matter, and factors let all their
  rows reach as far (α = 0).
- Keys. A softmax does not change with an offset that all positions have: so keys are centred.
  What a channel's keys are divided by, its queries are multiplied by: so all have one range.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from gpt2ja_export.calibration import Channels, Product, product, watch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn
    from transformers import GPT2LMHeadModel
    from transformers.pytorch_utils import Conv1D

_NORMS: dict[Product, str] = {"attn.c_attn": "ln_1", "mlp.c_fc": "ln_2"}
_LARGEST_FACTOR = 100.0  # between channels; a text that leaves one at rest says little of others


@dataclass(frozen=True, slots=True)
class Equalized:
    """A model with the same outputs.

    Attributes:
        model: The copy that was rewritten. Its keys reach from -1 to 1 on the text.
        value_ranges: Largest absolute value of each layer.
    """

    model: GPT2LMHeadModel
    value_ranges: list[float]


def equalize(model: GPT2LMHeadModel, windows: Tensor) -> Equalized:
    """A copy of `model`, in evaluation mode, rewritten as it behaves on `windows`.

    Args:
        model: Left as it is.
        windows: From `cut_to_windows`.
    """
    inputs: defaultdict[tuple[int, Product], Channels] = defaultdict(Channels)
    outputs: defaultdict[int, Channels] = defaultdict(Channels)

    def see(layer: int, name: Product, given: Tensor, output: Tensor) -> None:
        if name in _NORMS:
            inputs[layer, name].add(given)
        if name == "attn.c_attn":
            outputs[layer].add(output)

    with torch.inference_mode(), watch(model, see):
        for window in windows:
            model(window, logits_to_keep=1)
    equal = Equalized(copy.deepcopy(model), [])
    width = model.config.n_embd
    with torch.no_grad():
        for layer, block in enumerate(equal.model.transformer.h):
            for name, norm in _NORMS.items():
                matrix = product(equal.model, layer, name)
                before = cast("nn.LayerNorm", block.get_submodule(norm))
                _equalize_input(before, matrix, inputs[layer, name])
            low, high = outputs[layer].low, outputs[layer].high
            matrix = product(equal.model, layer, "attn.c_attn")
            _equalize_keys(matrix, low[width : 2 * width], high[width : 2 * width])
            equal.value_ranges.append(float(torch.maximum(-low, high)[2 * width :].max()))
    return equal


def _equalize_input(norm: nn.LayerNorm, matrix: Conv1D, seen: Channels) -> None:
    mean = seen.mean
    inputs = torch.maximum(seen.high - mean, mean - seen.low)
    weights = matrix.weight.abs().amax(dim=1)
    matrix.bias.add_(mean @ matrix.weight)
    norm.bias.sub_(mean)
    known = (inputs > 0) & (weights > 0)
    _rescale_input(norm, matrix, torch.where(known, (inputs / weights).sqrt(), 0))


def even_weights(model: GPT2LMHeadModel, places: Iterable[tuple[int, Product]]) -> None:
    """Let the rows of those products' matrices that stand behind norms reach equally far.

    Args:
        model: Changed in place; its outputs stay the same.
        places: Layers and names; others than those behind norms are passed over.
    """
    with torch.no_grad():
        for layer, name in places:
            if name in _NORMS:
                norm = model.transformer.h[layer].get_submodule(_NORMS[name])
                matrix = product(model, layer, name)
                reach = matrix.weight.abs().amax(dim=1)
                factors = torch.where(reach > 0, 1 / reach, 0)
                _rescale_input(cast("nn.LayerNorm", norm), matrix, factors)


def _rescale_input(norm: nn.LayerNorm, matrix: Conv1D, factors: Tensor) -> None:
    """Multiply rows of the matrix by factors, and divide channels by them; 0 leaves both."""
    known = factors > 0
    typical = factors[known].log().mean().exp() if known.any() else torch.ones(())
    factors = torch.where(known, factors / typical, 1)
    factors = factors.clamp(1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
    matrix.weight.mul_(factors[:, None])
    norm.weight.div_(factors)
    norm.bias.div_(factors)


def _equalize_keys(matrix: Conv1D, low: Tensor, high: Tensor) -> None:
    width = len(low)
    queries, keys = slice(0, width), slice(width, 2 * width)
    reach = (high - low) / 2
    reach = reach.clamp(min=float(reach.max()) / _LARGEST_FACTOR or 1)
    matrix.bias[keys].sub_((high + low) / 2)
    for parameter in (matrix.weight, matrix.bias):
        parameter[..., keys].div_(reach)
        parameter[..., queries].mul_(reach)
