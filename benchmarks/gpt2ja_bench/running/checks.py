"""Engines held against PyTorch on a trained model, so that a fast wrong one stands out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from gpt2ja_bench.report import Check
from gpt2ja_bench.running.engines.base import Job
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_bench.running.process import EngineProcess

_PROMPTS = 4
_PROMPT_TOKENS = 16
_GREEDY_TOKENS = 32
_TEXT_TOKENS = 128
# What perplexities may differ by, in percent, and the part of greedy ids that must agree. Sums in
# another order choose the other of two near tokens once in a hundred tokens; rounding weights to 4
# bits without a text costs 11 % on the demo model. An engine that computes something else is out by
# far more.
_EXACT_PERCENT, _EXACT_AGREEMENT = 0.1, 0.75
_QUANTISED_PERCENT, _QUANTISED_AGREEMENT = 20.0, 0.25


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine says.

    Attributes:
        greedy: New token ids of every prompt.
        perplexity: On the text; None where the engine gives no log-probabilities.
    """

    greedy: list[list[int]]
    perplexity: float | None


def ask(process: EngineProcess, checkpoint: Path, timeout: float) -> Answer:
    """Let an engine that has loaded `checkpoint` continue prompts greedily and score a text."""
    tokenizer = Tokenizer(checkpoint / names.TOKENIZER_FILE)
    text = (files("gpt2ja_export") / "sample.txt").read_text(encoding="utf-8")
    ids = [token for line in text.splitlines() for token in tokenizer.encode(line)]
    texts = [ids[i : i + _TEXT_TOKENS] for i in range(0, len(ids) - 1, _TEXT_TOKENS)]
    prompts = [part[:_PROMPT_TOKENS] for part in texts[:_PROMPTS]]
    lengths = [_GREEDY_TOKENS] * len(prompts)
    output = process.call("run", Job(prompts, lengths, len(prompts), sample=False), timeout=timeout)
    try:
        logprobs = process.call("logprobs", texts, timeout=timeout)
    except NotImplementedError:
        return Answer(output.token_ids, None)
    return Answer(output.token_ids, math.exp(-sum(logprobs) / (len(ids) - len(texts))))


def compare(answer: Answer, reference: Answer, *, exact: bool) -> Check:
    """Hold an engine's answer against PyTorch's.

    Args:
        answer: The engine's.
        reference: PyTorch's, in fp32.
        exact: Whether the engine keeps weights in fp32, and so must give the same ids.
    """
    shares = [
        next((i for i, (a, b) in enumerate(zip(found, right, strict=True)) if a != b), len(right))
        / len(right)
        for found, right in zip(answer.greedy, reference.greedy, strict=True)
    ]
    agreement = sum(shares) / len(shares)
    assert reference.perplexity is not None
    change = None
    if answer.perplexity is not None:
        change = 100 * (answer.perplexity / reference.perplexity - 1)
    return Check(
        greedy_tokens=_GREEDY_TOKENS * len(answer.greedy),
        greedy_agreement=agreement,
        perplexity=answer.perplexity,
        reference_perplexity=reference.perplexity,
        passed=passes(agreement, change, exact=exact),
    )


def passes(agreement: float, change: float | None, *, exact: bool) -> bool:
    """Whether an engine says what PyTorch says.

    Args:
        agreement: The share of greedy ids before the first that differs.
        change: Of the perplexity, in percent; None where the engine gives none.
        exact: Whether the engine keeps weights in fp32.
    """
    if change is None:
        return agreement == 1 if exact else agreement >= _QUANTISED_AGREEMENT
    if exact:
        return abs(change) <= _EXACT_PERCENT and agreement >= _EXACT_AGREEMENT
    return abs(change) <= _QUANTISED_PERCENT
