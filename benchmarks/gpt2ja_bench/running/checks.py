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
_EXACT_PERCENT = 0.1
_QUANTISED_PERCENT = 5.0
_QUANTISED_AGREEMENT = 0.25


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
    passed = agreement == 1 if exact else agreement >= _QUANTISED_AGREEMENT
    if answer.perplexity is not None:
        change = 100 * (answer.perplexity / reference.perplexity - 1)
        near = abs(change) <= (_EXACT_PERCENT if exact else _QUANTISED_PERCENT)
        passed = near and (passed or not exact)
    return Check(
        greedy_tokens=_GREEDY_TOKENS * len(answer.greedy),
        greedy_agreement=agreement,
        perplexity=answer.perplexity,
        reference_perplexity=reference.perplexity,
        passed=passed,
    )
