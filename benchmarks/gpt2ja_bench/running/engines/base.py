"""What every engine of the comparison does, and in what terms it is asked for it."""

from __future__ import annotations

import importlib
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

TOP_K = 50
TOP_P = 0.95
# For engines that would take these from the checkpoint.
NEUTRAL = {"temperature": 1.0, "repetition_penalty": 1.0}


@dataclass(frozen=True, slots=True)
class Job:
    """Prompts to continue in one call, each to its own length; the end token is ignored.

    Attributes:
        prompts: Token ids.
        new_tokens: Tokens to generate for each prompt.
        rows: Prompts that may run at once.
        sample: Sample with `TOP_K` and `TOP_P`; otherwise greedily.
        seed: Of the sampling.
        room: Positions that engines of a fixed capacity should make it for, if more than it needs:
            a short job warms up for a long one.
    """

    prompts: list[list[int]]
    new_tokens: list[int]
    rows: int
    sample: bool = True
    seed: int = 0
    room: int = 0

    @property
    def positions(self) -> int:
        """Positions that the longest text takes, or `room`."""
        pairs = zip(self.prompts, self.new_tokens, strict=True)
        return max(self.room, *(len(prompt) + count for prompt, count in pairs))

    @property
    def shared_prompt(self) -> bool:
        """Whether there are several prompts, and all of them and their lengths are one."""
        first = (self.prompts[0], self.new_tokens[0])
        return len(self.prompts) > 1 and all(
            pair == first for pair in zip(self.prompts, self.new_tokens, strict=True)
        )

    def batches(self) -> list[Job]:
        """The job in static batches of `rows`, in order, each as long as its longest prompt needs.

        For engines that have no continuous batching.
        """
        return [
            Job(
                self.prompts[start : start + self.rows],
                [max(self.new_tokens[start : start + self.rows])]
                * len(self.prompts[start : start + self.rows]),
                self.rows,
                self.sample,
                self.seed,
                self.room,
            )
            for start in range(0, len(self.prompts), self.rows)
        ]


@dataclass(frozen=True, slots=True)
class Output:
    """What came of a job.

    Attributes:
        token_ids: New tokens of each prompt, as many as were asked for.
        seconds: The whole call.
        marks: Seconds from the call to each token of the last batch, first token first; empty
            where the engine does not tell.
        native_calls: Calls of this project's native operators in it.
    """

    token_ids: list[list[int]]
    seconds: float
    marks: list[float]
    native_calls: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """What an engine that is loaded says of itself; empty where it does not.

    Attributes:
        kernels: What computes the graph.
        fingerprint: Where it is the same, so is a seed's text.
    """

    kernels: str = ""
    fingerprint: str = ""


class Engine(ABC):
    """One engine in one precision, alone in its process.

    Args:
        precision: In the engine's own words.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, precision: str, device: str) -> None:
        self.precision = precision
        self.device = device

    @abstractmethod
    def prepare(self, checkpoint: Path, directory: Path) -> None:
        """Convert a Hugging Face checkpoint to the engine's own files in `directory`; untimed."""

    @abstractmethod
    def load(self, directory: Path, threads: int) -> None:
        """Make ready to generate from what `prepare` wrote."""

    @abstractmethod
    def generate(self, job: Job) -> tuple[list[list[int]], list[float]]:
        """Run a job of at most `job.rows` prompts of one length each for prompt and text.

        Returns:
            New tokens of each prompt, and the clock at each token (`time.perf_counter`).
        """

    @abstractmethod
    def logprobs(self, texts: list[list[int]]) -> list[float]:
        """Sum of the log-probabilities of each text's tokens but the first, in nats.

        Raises:
            NotImplementedError: The engine gives none.
        """

    def identity(self) -> Identity:
        """Which kernels and model the engine has loaded, where it can tell."""
        return Identity()

    def run(self, job: Job) -> Output:
        """Run a job of any size, in static batches unless the engine knows better."""
        started = time.perf_counter()
        token_ids: list[list[int]] = []
        marks: list[float] = []
        for batch in job.batches():
            found, marks = self.generate(batch)
            token_ids += found
        seconds = time.perf_counter() - started
        wanted = [ids[:count] for ids, count in zip(token_ids, job.new_tokens, strict=True)]
        return Output(wanted, seconds, [mark - started for mark in marks])


def sum_logprobs(logits: NDArray[np.float32], ids: Sequence[int]) -> float:
    """Log-probability of `ids` but the first, from logits of shape (length, vocabulary)."""
    rows = logits[: len(ids) - 1].astype(np.float64)
    top = rows.max(axis=1)
    norm = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
    chosen = rows[np.arange(len(ids) - 1), np.asarray(ids[1:])]
    return float((chosen - norm).sum())


def make_engine(kind: str, precision: str, device: str) -> Engine:
    """The engine ``module:class``, in the process that is to run it."""
    module, name = kind.split(":")
    engine: Engine = getattr(importlib.import_module(module), name)(precision, device)
    return engine
