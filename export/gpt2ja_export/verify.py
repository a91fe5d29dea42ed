"""Proof that a bundle says what PyTorch says: figures, and the limits that they must keep."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.bundle.manifest import Precision
    from gpt2ja_onnx.device.base import Session

    # Token ids of shape (length,) to PyTorch's logits of shape (length, vocabulary), fp32.
    Reference = Callable[[NDArray[np.int64]], NDArray[np.float32]]

_PROMPT_LENGTHS = (1, 2, 7, 16, 33, 64)
_CACHED_STEPS = 8
_GREEDY_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """What a precision may differ from PyTorch.

    Attributes:
        logit_difference: Largest absolute difference of a logit; infinite where no bound is
            meaningful.
        perplexity_percent: Change of the perplexity, in percent.
        same_greedy: Whether greedy ids must be equal.
    """

    logit_difference: float
    perplexity_percent: float
    same_greedy: bool


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(1e-4, 0.01, same_greedy=True),
    "fp16": Limits(math.inf, 0.1, same_greedy=False),
    "bf16": Limits(math.inf, 0.5, same_greedy=False),
    "int8": Limits(math.inf, 0.5, same_greedy=False),
    "int4": Limits(math.inf, 4.0, same_greedy=False),
}


@dataclass(frozen=True, slots=True)
class Verification:
    """Figures of the comparison of a bundle with PyTorch in fp32.

    Attributes:
        max_logit_difference: Over prompts of several lengths, alone and in a ragged batch.
        mean_logit_difference: Mean of the absolute differences of the same logits.
        cached_difference: Largest difference between the bundle's logits with its cache, token
            by token, and without.
        batch_difference: Largest difference between a row alone and in a ragged batch.
        greedy_tokens: Tokens that were generated greedily.
        greedy_agreement: Share of them before the first one that differs from PyTorch's.
        top_agreement: Share of the text's positions with the same best token.
        kl_divergence: Mean KL divergence from PyTorch to the bundle, in nats a position.
        perplexity: Of the bundle on the text.
        reference_perplexity: Of PyTorch on the text.
        perplexity_change_percent: Change from PyTorch to the bundle.
        text_tokens: Tokens of the text that were predicted.
    """

    max_logit_difference: float
    mean_logit_difference: float
    cached_difference: float
    batch_difference: float
    greedy_tokens: int
    greedy_agreement: float
    top_agreement: float
    kl_divergence: float
    perplexity: float
    reference_perplexity: float
    perplexity_change_percent: float
    text_tokens: int


def verify(session: Session, reference: Reference, text_ids: Sequence[int]) -> Verification:
    """Compare a bundle with PyTorch.

    Args:
        session: The bundle's graph.
        reference: PyTorch's logits.
        text_ids: Token ids of the text on which perplexity is measured; prompts are its starts.

    Raises:
        ExportError: The text is too short.
    """
    context = session.shape.context
    ids = np.asarray(text_ids, dtype=np.int64)
    if len(ids) < 3:
        raise ExportError(f"the evaluation text has {len(ids)} tokens; it needs at least 3")
    lengths = sorted({min(length, len(ids), context - 1) for length in _PROMPT_LENGTHS})
    prompts = [ids[:length] for length in lengths]
    expected = [reference(prompt) for prompt in prompts]
    alone = [_logits(session, [prompt])[0] for prompt in prompts]
    batched = _logits(session, prompts)
    differences = [
        np.abs(found - right)
        for rows in (alone, batched)
        for found, right in zip(rows, expected, strict=True)
    ]
    greedy = min(_GREEDY_TOKENS, context - len(prompts[-1]))
    return Verification(
        max_logit_difference=max(float(d.max()) for d in differences),
        mean_logit_difference=float(np.mean([d.mean() for d in differences])),
        cached_difference=_cached_difference(session, ids[: min(len(ids), context)]),
        batch_difference=max(
            float(np.abs(a - b).max()) for a, b in zip(alone, batched, strict=True)
        ),
        greedy_tokens=greedy,
        greedy_agreement=_greedy_agreement(session, reference, prompts[-1], greedy),
        **_compare_on_text(session, reference, ids),
    )


def check(figures: Verification, precision: Precision) -> None:
    """Hold figures against the limits of a precision.

    Raises:
        ExportError: A figure is over its limit.
    """
    limits = LIMITS[precision]
    change = figures.perplexity_change_percent
    if not figures.max_logit_difference <= limits.logit_difference:
        raise ExportError(
            f"logits differ from PyTorch's by {figures.max_logit_difference:.2g}, the limit of "
            f"{precision} is {limits.logit_difference:.2g}"
        )
    if not change <= limits.perplexity_percent:
        raise ExportError(
            f"the perplexity rises by {change:.3g} %, the limit of {precision} is "
            f"{limits.perplexity_percent} %"
        )
    if limits.same_greedy and figures.greedy_agreement < 1:
        raise ExportError(
            f"greedy ids leave PyTorch's after {figures.greedy_agreement:.0%} of "
            f"{figures.greedy_tokens} tokens"
        )


def as_table(figures: dict[str, Any]) -> str:
    """The figures as lines of text."""
    return "\n".join(
        f"  {name.replace('_', ' '):<27}{value:.6g}" if isinstance(value, float) else
        f"  {name.replace('_', ' '):<27}{value}"
        for name, value in figures.items()
    )  # fmt: skip


def as_dict(figures: Verification) -> dict[str, Any]:
    """The figures for the manifest."""
    return asdict(figures)


def _logits(session: Session, prompts: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
    """Logits of all positions of a ragged batch, (length, vocabulary) each."""
    longest = max(map(len, prompts))
    cache = session.new_cache()
    cache.reserve(len(prompts), longest, 0)
    plan = cache.plan(0, len(prompts), longest, longest)
    plan.position_ids[:] = plan.logit_positions[:] = np.arange(longest)
    for row, prompt in enumerate(prompts):
        plan.input_ids[row, : len(prompt)] = prompt
        plan.lengths[row] = len(prompt)
    plan.run()
    logits = plan.all_logits()
    return [logits[row, : len(prompt)] for row, prompt in enumerate(prompts)]


class _Row:
    """One row that is fed piece by piece, through its cache."""

    def __init__(self, session: Session, capacity: int) -> None:
        self._cache = session.new_cache()
        self._cache.reserve(1, capacity, 0)
        self._length = 0

    def feed(self, new: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits after the last of the new tokens, shape (vocabulary,)."""
        plan = self._cache.plan(0, 1, len(new), 1)
        plan.input_ids[0] = new
        plan.position_ids[0] = np.arange(self._length, self._length + len(new))
        plan.logit_positions[0, 0] = len(new) - 1
        self._length += len(new)
        plan.lengths[0] = self._length
        plan.run()
        logits: NDArray[np.float32] = plan.all_logits()[0, 0]
        return logits


def _cached_difference(session: Session, ids: NDArray[np.int64]) -> float:
    """Largest difference of the last positions' logits with the cache and without."""
    start = len(ids) - min(_CACHED_STEPS, len(ids) - 1)
    row = _Row(session, len(ids))
    cached = [row.feed(ids[:start])] + [row.feed(ids[p : p + 1]) for p in range(start, len(ids))]
    uncached = _logits(session, [ids])[0][start - 1 :]
    return float(np.abs(np.stack(cached) - uncached).max())


def _greedy_agreement(
    session: Session, reference: Reference, prompt: NDArray[np.int64], tokens: int
) -> float:
    """Share of greedy tokens before the first one that PyTorch would not choose.

    PyTorch reads the finished text once: as long as it would choose each next token, its own
    greedy text is the same.
    """
    row = _Row(session, len(prompt) + tokens)
    text = prompt
    new = prompt
    for _ in range(tokens):
        new = row.feed(new).argmax(axis=0, keepdims=True)
        text = np.append(text, new)
    expected = reference(text[:-1]).argmax(axis=1)[len(prompt) - 1 :]
    differs = np.flatnonzero(expected != text[len(prompt) :])
    return float(differs[0]) / tokens if len(differs) else 1.0


def _compare_on_text(
    session: Session, reference: Reference, ids: NDArray[np.int64]
) -> dict[str, Any]:
    """Perplexities, KL divergence and agreement over consecutive windows of the context."""
    context = session.shape.context
    loss = reference_loss = divergence = 0.0
    agreed = count = 0
    for start in range(0, len(ids) - 1, context):
        window, targets = ids[start : start + context], ids[start + 1 : start + context + 1]
        size = len(targets)
        found = _log_softmax(_logits(session, [window])[0][:size])
        right = _log_softmax(reference(window)[:size])
        rows = np.arange(size)
        loss -= float(found[rows, targets].sum(dtype=np.float64))
        reference_loss -= float(right[rows, targets].sum(dtype=np.float64))
        divergence += float((np.exp(right) * (right - found)).sum(dtype=np.float64))
        agreed += int((found.argmax(axis=1) == right.argmax(axis=1)).sum())
        count += size
    change = math.expm1((loss - reference_loss) / count) * 100
    return {
        "top_agreement": agreed / count,
        "kl_divergence": divergence / count,
        "perplexity": math.exp(loss / count),
        "reference_perplexity": math.exp(reference_loss / count),
        "perplexity_change_percent": change,
        "text_tokens": count,
    }


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(
        np.float32
    )
    return shifted
