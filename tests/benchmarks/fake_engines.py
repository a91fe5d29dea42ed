"""Engines that answer at once, wrongly, never, or not at all: for the runner's tests."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from gpt2ja_bench.running.engines.base import Engine, Job

if TYPE_CHECKING:
    from pathlib import Path


class Fake(Engine):
    """Continues every prompt with its last token; the precision says what goes wrong."""

    def prepare(self, checkpoint: Path, directory: Path) -> None:
        if self.precision == "cannot convert":
            raise RuntimeError("this checkpoint is not for me\nand a long story")
        (directory / "weights").write_bytes(b"x" * 1000)

    def load(self, directory: Path, threads: int) -> None:
        assert (directory / "weights").is_file()

    def generate(self, job: Job) -> tuple[list[list[int]], list[float]]:
        # The check is greedy; what samples is being timed.
        if self.precision == "dies" and job.sample:
            os._exit(7)
        if self.precision == "hangs" and job.sample:
            time.sleep(60)
        marks = []
        for _ in range(job.new_tokens[0]):
            time.sleep(0.004 if self.precision == "slow" else 0.001)
            marks.append(time.perf_counter())
        shift = 1 if self.precision == "wrong" else 0
        rows = zip(job.prompts, job.new_tokens, strict=True)
        return [[prompt[-1] + shift] * count for prompt, count in rows], marks

    def logprobs(self, texts: list[list[int]]) -> list[float]:
        if self.precision == "no scores":
            raise NotImplementedError
        return [-2.0 * (len(text) - 1) for text in texts]
