"""What quantisation asks of a checkpoint that reads a text: ranges, inputs, what errors cost."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar, cast, get_args

import torch

from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn
    from transformers import GPT2LMHeadModel
    from transformers.pytorch_utils import Conv1D

Product = Literal["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
_Place = TypeVar("_Place")
PRODUCTS = get_args(Product)  # of a layer, in the order in which they are computed
# Nats a token: each a tenth of what int8 is to cost in all.
_ACTIVATION_LIMIT = _CACHE_LIMIT = 5e-5
_COST_TOKENS, _COST_WINDOW = 4096, 256  # a pass back takes memory for each token of a window


def cut_to_windows(ids: Sequence[int], context: int) -> Tensor:
    """Token ids as full contexts; a short text is repeated until every position has some.

    Returns:
        Shape (windows, 1, context), int64.
    """
    count = -(-len(ids) // context)
    repeated = [*ids] * -(-count * context // len(ids))
    return torch.tensor(repeated[: count * context]).view(count, 1, context)


def product(model: GPT2LMHeadModel, layer: int, name: Product) -> Conv1D:
    """One of the layer's matrices, whose weight is (inputs, outputs)."""
    return cast("Conv1D", model.transformer.h[layer].get_submodule(name))


@contextmanager
def watch(
    model: GPT2LMHeadModel, see: Callable[[int, Product, Tensor, Tensor], None]
) -> Iterator[None]:
    """Call `see` with layer, product, and its input and output of every pass."""

    def hook(layer: int, name: Product) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda _, inputs, output: see(layer, name, inputs[0], output)

    handles = [
        product(model, layer, name).register_forward_hook(hook(layer, name))
        for layer in range(model.config.n_layer)
        for name in PRODUCTS
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Channels:
    """Smallest, largest and mean value of every channel, over all rows seen."""

    def __init__(self) -> None:
        self.low = self.high = self._sum = torch.zeros(())
        self._rows = 0

    def add(self, rows: Tensor) -> None:
        """See `rows`, shape (…, channels)."""
        rows = rows.flatten(0, -2)
        low, high = rows.aminmax(dim=0)
        self.low = torch.minimum(self.low, low) if self._rows else low
        self.high = torch.maximum(self.high, high) if self._rows else high
        self._sum = self._sum + rows.sum(dim=0)
        self._rows += len(rows)

    @property
    def mean(self) -> Tensor:
        """Shape (channels,)."""
        return self._sum / self._rows


@dataclass(frozen=True, slots=True)
class Wide:
    """What takes 16 bits in an int8 bundle.

    Attributes:
        activations: Of these products, layer and name.
        caches: Keys and values of these layers, rising.
    """

    activations: frozenset[tuple[int, Product]] = frozenset()
    caches: tuple[int, ...] = ()


def choose_wide(
    model: GPT2LMHeadModel, windows: Tensor, cache_scales: Sequence[tuple[float, float]]
) -> Wide:
    """Let activations take 16 bits where they cost most, and so keys and values.

    The others cost no more than 5e-5 nats a token of KL divergence together, in either. This is
    for int8: with int4 a block of activations has a scale of its own, and its weights cost a
    hundred times as much.

    Args:
        model: An equalised model.
        windows: Of a text, from `cut_to_windows`.
        cache_scales: Of keys and of values, by layer.
    """
    short = cut_to_windows(
        windows.flatten()[:_COST_TOKENS].tolist(), min(_COST_WINDOW, windows.shape[-1])
    )
    costs = rounding_costs(model, short, _to_int8, cache_scales)
    activations = _dearest(costs.activations, _ACTIVATION_LIMIT)
    caches = _dearest(costs.caches, _CACHE_LIMIT)
    return Wide(frozenset(activations), tuple(sorted(caches)))


@dataclass(frozen=True, slots=True)
class Calibration:
    """How each product, a layer and a name, is to be quantised.

    Attributes:
        grams: Mean outer product of its input with itself, shape (inputs, inputs).
        wide: Those whose activations take 16 bits.
    """

    grams: dict[tuple[int, Product], Tensor]
    wide: frozenset[tuple[int, Product]]


def _dearest(costs: Mapping[_Place, float], limit: float) -> set[_Place]:
    """As few as possible, so that the others cost no more than `limit` together."""
    chosen: set[_Place] = set()
    left = sum(costs.values())
    for place, cost in sorted(costs.items(), key=lambda item: -item[1]):
        if left <= limit:
            break
        chosen.add(place)
        left -= cost
    return chosen


def _to_int8(rows: Tensor) -> Tensor:
    """Activations as an int8 product sees them."""
    step = rows.abs().amax(dim=-1, keepdim=True) / 127
    return torch.where(step > 0, rows / step, 0).round() * step


def input_grams(model: GPT2LMHeadModel, windows: Tensor) -> dict[tuple[int, Product], Tensor]:
    """Mean outer product of every product's input with itself, shape (inputs, inputs)."""
    grams: dict[tuple[int, Product], Tensor] = {}
    rows = windows.numel()

    def see(layer: int, name: Product, given: Tensor, _: Tensor) -> None:
        found = given[0].T @ given[0] / rows
        grams[layer, name] = grams[layer, name] + found if (layer, name) in grams else found

    with torch.inference_mode(), watch(model, see):
        for window in windows:
            model(window, logits_to_keep=1)
    return grams


@dataclass(frozen=True, slots=True)
class Costs:
    """KL divergence, nats a token, that each change would cost by itself.

    Attributes:
        activations: Of each product's input.
        caches: Of each layer's keys and values.
    """

    activations: dict[tuple[int, Product], float]
    caches: dict[int, float]


def rounding_costs(
    model: GPT2LMHeadModel,
    windows: Tensor,
    change: Callable[[Tensor], Tensor],
    cache_scales: Sequence[tuple[float, float]],
) -> Costs:
    """What changed inputs of products cost, and keys and values of a cache of 8 bits.

    To second order it is ½ E[(∇ log p(y) · δ)²], with y drawn from the model and δ what the change
    does to the product: the Fisher information of the product's output (Martens, "New insights
    and perspectives on the natural gradient method", 2020, section 6). One pass back serves all.

    Args:
        model: Its weights' ``requires_grad`` is changed.
        windows: From `cut_to_windows`.
        change: From inputs, shape (rows, inputs), to the changed ones.
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
    seen: list[tuple[tuple[int, Product], Tensor, Tensor]] = []

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
                moved = (change(given) - given) @ product(model, layer, name).weight
                assert output.grad is not None
                costs.activations[layer, name] += _cost(output.grad[0], moved) / windows.numel()
                if name == "attn.c_attn":
                    kept = output.detach()[0, :, width:]
                    moved = (kept / steps[layer]).round() * steps[layer] - kept
                    gradient = output.grad[0, :, width:]
                    costs.caches[layer] += _cost(gradient, moved) / windows.numel()
    return costs


def _cost(gradient: Tensor, moved: Tensor) -> float:
    """Nats of all rows together; both of shape (rows, numbers)."""
    return float((gradient * moved).sum(-1).square().sum() / 2)
