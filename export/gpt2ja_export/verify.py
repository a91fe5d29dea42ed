"""Proof that a bundle says what PyTorch says: its figures, measured as the engine runs it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2ja_export.rows import Rows, logits_at_once, logits_in_pieces
from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpt2ja_onnx.device.base import Floats, Ids, Scores, Session

    # Token ids of shape (length,) to PyTorch's logits of shape (length, vocabulary), fp32.
    Reference = Callable[[Ids], Floats]

_logits = logits_at_once  # what tests know it by
_PROMPT_LENGTHS = (1, 2, 7, 16, 33, 64, 200)  # the last one is longer than a piece
_DECODED = 8
_GREEDY_PROMPT = 64
_GREEDY_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Verification:
    """Figures of the comparison of a bundle with PyTorch in fp32.

    Attributes:
        max_logit_difference: Over ragged batches, read at once, and decoded token by token.
        mean_logit_difference: Mean of the absolute differences of the same logits.
        cached_difference: Largest difference of the bundle's logits between decoding, one token a
            step behind a prompt, and reading the whole text at once.
        batch_difference: Largest difference of the bundle's logits between a row alone and in a
            ragged batch, read and decoded.
        wrong_candidates: Rows of a step whose candidates were not the best of their logits.
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
    wrong_candidates: int
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
        text_ids: Token ids of the text on which perplexity is measured; prompts are taken from it.

    Raises:
        ExportError: The text is too short.
    """
    context = session.shape.context
    ids = np.asarray(text_ids, dtype=np.int64)
    if len(ids) < 3:
        raise ExportError(f"the evaluation text has {len(ids)} tokens; it needs at least 3")
    steps = min(_DECODED, context - 1)
    lengths = sorted({min(length, context - steps) for length in _PROMPT_LENGTHS})
    prompt = ids[: min(_GREEDY_PROMPT, context - 1)]
    greedy = min(_GREEDY_TOKENS, context - len(prompt))
    # A broken graph may overflow; what is then not a number is over every limit.
    with np.errstate(over="ignore", invalid="ignore"):
        texts = _cut(ids, [length + steps for length in lengths])
        return Verification(
            **_compare_rows(session, reference, texts, np.resize(ids, context), steps),
            greedy_tokens=greedy,
            greedy_agreement=_greedy_agreement(session, reference, prompt, greedy),
            **_compare_on_text(session, reference, ids),
        )


def as_table(figures: dict[str, Any]) -> str:
    """The figures as lines of text; those of other kernels below their name."""
    lines = []
    for name, value in figures.items():
        label = f"  {name.replace('_', ' ')}"
        if isinstance(value, dict):
            lines += [label, as_table(value)]
        else:
            shown = f"{value:.6g}" if isinstance(value, float) else value
            lines.append(f"{label:<29}{shown}")
    return "\n".join(lines)


def as_dict(figures: Verification) -> dict[str, Any]:
    """The figures for the manifest."""
    return asdict(figures)


def wrong_candidates(scores: Scores) -> int:
    """Rows whose candidates are not the best of their logits, sorted, equal ones by rising id.

    Of several tokens whose score is the last candidate's, any may be among the candidates.
    """
    logits, found, ids = scores.logits.read(), scores.candidates, scores.ids
    count = found.shape[1]
    best = np.sort(np.partition(logits, -count)[:, -count:])[:, ::-1]
    known = (ids >= 0) & (ids < logits.shape[1])
    right = known & (found == best)
    right &= np.take_along_axis(logits, np.where(known, ids, 0), axis=1) == found
    # Different ids in rising order among equal scores: so each is there once.
    right[:, 1:] &= (found[:, 1:] < found[:, :-1]) | (ids[:, 1:] > ids[:, :-1])
    return int((~right).any(axis=1).sum())


def _cut(ids: Ids, lengths: Sequence[int]) -> list[Ids]:
    """Texts of these lengths from different places, so that rows which change places differ."""
    starts = np.linspace(0, len(ids), len(lengths), endpoint=False, dtype=np.int64)
    return [
        np.take(ids, np.arange(start, start + length), mode="wrap")
        for start, length in zip(starts, lengths, strict=True)
    ]


def _compare_rows(
    session: Session, reference: Reference, texts: Sequence[Ids], whole: Ids, steps: int
) -> dict[str, Any]:
    """Differences of texts that are read at once, and of their last tokens decoded.

    Args:
        session: The bundle's graph.
        reference: PyTorch's logits.
        texts: By rising length.
        whole: One that fills the context.
        steps: Tokens of each text that are decoded.
    """
    right = [reference(text) for text in texts]
    read = [logits_at_once(session, [text])[0] for text in texts]
    alone = [_decode(session, [text], steps)[0][0] for text in texts]
    # Short ones twice: more rows than a product's kernel takes at once, next to different ones.
    short = [i for i, text in enumerate(texts) if len(text) <= session.prompt_tokens]
    together = [*short, *reversed(short), *range(len(short), len(texts))]
    beside = logits_at_once(session, [texts[i] for i in short])
    decoded, wrong = _decode(session, [texts[i] for i in together], steps)
    (to_the_end,), _ = _decode(session, [whole], steps)
    tail = slice(-steps - 1, None)
    from_pytorch = [
        *map(np.subtract, read, right),
        *map(np.subtract, beside, right),
        *(logits - right[i][tail] for i, logits in zip(together, decoded, strict=True)),
        to_the_end - reference(whole)[tail],
    ]
    from_reading = [
        *(logits - read[i][tail] for i, logits in zip(together, decoded, strict=True)),
        to_the_end - logits_in_pieces(session, whole)[tail],
    ]
    from_alone = [
        *map(np.subtract, beside, read),
        *(logits - alone[i] for i, logits in zip(together, decoded, strict=True)),
    ]
    return {
        "max_logit_difference": _largest(from_pytorch),
        "mean_logit_difference": float(np.mean([np.abs(d).mean() for d in from_pytorch])),
        "cached_difference": _largest(from_reading),
        "batch_difference": _largest(from_alone),
        "wrong_candidates": wrong,
    }


def _decode(session: Session, texts: Sequence[Ids], steps: int) -> tuple[list[Floats], int]:
    """Decode the last `steps` tokens of texts together.

    Returns:
        Logits of each text, shape (steps + 1, vocabulary), and how many of the rows that the
        steps gave had wrong candidates.
    """
    rows = Rows(session, len(texts), max(map(len, texts)))
    found = []
    wrong = 0
    for step in range(steps + 1):
        if step == 0:
            scores = rows.read_prompts([text[:-steps] for text in texts])
        else:
            scores = rows.decode(np.array([text[step - steps - 1] for text in texts]))
        found.append(scores.logits.read().copy())
        wrong += wrong_candidates(scores)
    return [np.stack(logits) for logits in zip(*found, strict=True)], wrong


def _largest(differences: Sequence[Floats]) -> float:
    """The largest absolute one; not a number if one of them is not."""
    return float(np.max([np.abs(difference).max() for difference in differences]))


def _greedy_agreement(session: Session, reference: Reference, prompt: Ids, tokens: int) -> float:
    """Share of greedy tokens before the first one that PyTorch would not choose.

    PyTorch reads the finished text once: as long as it would choose each next token, its own
    greedy text is the same.
    """
    rows = Rows(session, 1, len(prompt) + tokens)
    text = prompt
    scores = rows.read_prompts([prompt])
    for _ in range(tokens - 1):
        text = np.append(text, scores.logits.row(0).argmax())
        scores = rows.decode(text[-1:])
    text = np.append(text, scores.logits.row(0).argmax())
    expected = reference(text[:-1]).argmax(axis=1)[len(prompt) - 1 :]
    differs = np.flatnonzero(expected != text[len(prompt) :])
    return float(differs[0]) / tokens if len(differs) else 1.0


def _compare_on_text(session: Session, reference: Reference, ids: Ids) -> dict[str, Any]:
    """Perplexities, KL divergence and agreement over consecutive windows of the context."""
    context = session.shape.context
    loss = reference_loss = divergence = 0.0
    agreed = count = 0
    for start in range(0, len(ids) - 1, context):
        window, targets = ids[start : start + context], ids[start + 1 : start + context + 1]
        size = len(targets)
        found = _log_softmax(logits_in_pieces(session, window)[:size])
        right = _log_softmax(reference(window)[:size])
        rows = np.arange(size)
        loss -= float(found[rows, targets].sum(dtype=np.float64))
        reference_loss -= float(right[rows, targets].sum(dtype=np.float64))
        divergence += float((np.exp(right) * (right - found)).sum(dtype=np.float64))
        agreed += int((found.argmax(axis=1) == right.argmax(axis=1)).sum())
        count += size
    return {
        "top_agreement": agreed / count,
        "kl_divergence": divergence / count,
        "perplexity": float(np.exp(loss / count)),
        "reference_perplexity": float(np.exp(reference_loss / count)),
        "perplexity_change_percent": float(np.expm1((loss - reference_loss) / count)) * 100,
        "text_tokens": count,
    }


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(
        np.float32
    )
    return shifted
