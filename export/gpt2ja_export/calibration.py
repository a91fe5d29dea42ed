"""What goes through the products of a checkpoint that reads a text."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn
    from transformers import GPT2LMHeadModel
    from transformers.pytorch_utils import Conv1D

Product = Literal["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
Place = tuple[int, Product]  # layer and name
PRODUCTS = get_args(Product)  # of a layer, in the order in which they are computed


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


def input_grams(model: GPT2LMHeadModel, windows: Tensor) -> dict[Place, Tensor]:
    """Mean outer product of every product's input with itself, shape (inputs, inputs)."""
    grams: dict[Place, Tensor] = {}
    rows = windows.numel()

    def see(layer: int, name: Product, given: Tensor, _: Tensor) -> None:
        found = given[0].T @ given[0] / rows
        grams[layer, name] = grams[layer, name] + found if (layer, name) in grams else found

    with torch.inference_mode(), watch(model, see):
        for window in windows:
            model(window, logits_to_keep=1)
    return grams
