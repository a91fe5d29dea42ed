"""When requests come and what they ask for: the same for every server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_bench.running.engines.base import TOP_K, TOP_P
from gpt2ja_bench.running.workloads import FIRST_ID, SERVE_LENGTHS

if TYPE_CHECKING:
    from gpt2ja_bench.report import Workload


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request.

    Attributes:
        at: Seconds after the first one.
        prompt: Token ids.
        new_tokens: To generate; the end token is ignored.
        seed: Of its sampling.
    """

    at: float
    prompt: tuple[int, ...]
    new_tokens: int
    seed: int

    def body(self) -> dict[str, object]:
        """For ``/v1/completions``, in words that vLLM, llama.cpp and this project share."""
        return {
            "model": "bench",
            "prompt": list(self.prompt),
            "max_tokens": self.new_tokens,
            "ignore_eos": True,
            "stream": True,
            "temperature": 1.0,
            "top_k": TOP_K,
            "top_p": TOP_P,
            "min_p": 0.0,
            "seed": self.seed,
        }


def arrivals(workload: Workload, vocab_size: int, rate: float) -> list[Arrival]:
    """Requests of a Poisson process of `rate` a second, for as long at every rate.

    They do not wait for answers (an open loop): a server that falls behind gets a queue.
    """
    count = round(workload.requests * rate / workload.rates[0])
    random = np.random.default_rng([workload.seed, round(1000 * rate)])
    times = np.cumsum(random.exponential(1 / rate, count))
    prompts = random.integers(FIRST_ID, vocab_size, (count, workload.prompt_tokens)).tolist()
    lengths = random.integers(*SERVE_LENGTHS, count, endpoint=True).tolist()
    return [
        Arrival(float(at - times[0]), tuple(prompt), length, index)
        for index, (at, prompt, length) in enumerate(zip(times, prompts, lengths, strict=True))
    ]


def warm_up(workload: Workload, vocab_size: int) -> list[Arrival]:
    """As many short requests as may run at once, all at the same time."""
    random = np.random.default_rng(workload.seed)
    shape = (workload.rows, workload.prompt_tokens)
    prompts = random.integers(FIRST_ID, vocab_size, shape).tolist()
    return [Arrival(0.0, tuple(prompt), 4, index) for index, prompt in enumerate(prompts)]
