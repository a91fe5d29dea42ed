"""What is run: prompts and lengths that are the same for every engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpt2ja_bench.report import Workload
from gpt2ja_bench.running.engines.base import Job

FIRST_ID = 16  # below are special tokens
_SEED = 20261124
_QUEUE_LENGTHS = (4, 28)
SERVE_LENGTHS = (16, 80)  # of the texts that a server is asked for


@dataclass(frozen=True, slots=True)
class Plan:
    """A workload and how often it is timed.

    Attributes:
        workload: What is run.
        rounds: Timed calls of each engine.
        cost: Seconds of one call of a middling engine; for the time that is left.
    """

    workload: Workload
    rounds: int
    cost: float


def _generate(
    name: str,
    title: str,
    rows: int,
    prompt: int,
    new: int,
    *,
    shared: bool = False,
    peers: int | None = None,
) -> Workload:
    return Workload(name, title, "generate", rows, prompt, new, rows, shared, peers)


_MEAN = sum(_QUEUE_LENGTHS) // 2
_SERVE = Workload(
    "serve",
    "Serving over HTTP",
    "serve",
    rows=32,
    prompt_tokens=32,
    new_tokens=sum(SERVE_LENGTHS) // 2,
    requests=30,
    rates=(2, 4, 8, 16, 32, 64),
    seed=_SEED,
)
PLANS: tuple[Plan, ...] = (
    Plan(_generate("interactive", "One sequence", 1, 16, 96), 5, 1.4),
    Plan(_generate("batch-8", "Batch of 8", 8, 16, 96), 2, 3.3),
    Plan(_generate("batch-32", "Batch of 32", 32, 16, 96), 2, 7.8),
    Plan(_generate("batch-64", "Batch of 64", 64, 16, 32), 2, 4.1),
    Plan(_generate("long-prompt", "Long prompt", 1, 768, 64), 3, 2),
    Plan(
        _generate("shared-prompt", "16 sequences of one prompt", 16, 512, 16, shared=True), 2, 6.5
    ),
    Plan(_generate("long-texts", "32 texts to 1,000 positions", 32, 64, 936, peers=2), 1, 90),
    Plan(_generate("batch-128", "Batch of 128", 128, 16, 16, peers=2), 2, 4),
    Plan(_generate("batch-256", "Batch of 256", 256, 16, 16, peers=2), 2, 8),
    Plan(Workload("queue", "Queue of 200 requests", "queue", 32, 16, _MEAN, 200), 1, 16),
    Plan(Workload("score", "Score 100 texts", "score", 16, 64, 0, 100), 1, 6),
    Plan(Workload("cold-start", "New process to first token", "cold_start", 1, 16, 1, 1), 2, 3.5),
    Plan(_SERVE, 1, 150),
)
QUICK_PLANS: tuple[Plan, ...] = (
    Plan(_generate("interactive", "One sequence", 1, 16, 32), 3, 0.5),
    Plan(_generate("batch-8", "Batch of 8", 8, 16, 32), 2, 1.2),
)


def job(workload: Workload, vocab_size: int, round_: int) -> Job:
    """The prompts and lengths of a workload in one round; the same ones for every engine.

    Prompts are new in every round, since some engines keep those of calls before.
    """
    # No two workloads share a prompt, or the beginning of one, either.
    random = np.random.default_rng([_SEED, round_, *workload.id.encode()])
    shape = (workload.requests, workload.prompt_tokens)
    prompts = random.integers(FIRST_ID, vocab_size, shape).tolist()
    if workload.shared_prompt:
        prompts = [prompts[0]] * workload.requests
    lengths = [workload.new_tokens] * workload.requests
    if workload.kind == "queue":
        same = np.random.default_rng(_SEED)  # in every round
        lengths = same.integers(*_QUEUE_LENGTHS, workload.requests, endpoint=True).tolist()
    return Job(prompts, lengths, workload.rows)


def warm_up(full: Job) -> Job:
    """A short job with the shapes of `full`."""
    rows = full.rows
    lengths = [min(4, count) for count in full.new_tokens[:rows]]
    return Job(full.prompts[:rows], lengths, rows, room=full.positions)
