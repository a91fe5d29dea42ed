"""CTranslate2."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gpt2ja_bench.running.engines.base import TOP_K, TOP_P, Engine, Job

if TYPE_CHECKING:
    from pathlib import Path


class CTranslate2(Engine):
    """``ctranslate2.Generator``; the precision is its compute type."""

    def prepare(self, checkpoint: Path, directory: Path) -> None:
        """Convert with CTranslate2's own converter."""
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(checkpoint)).convert(
            str(directory), quantization=self.precision, force=True
        )

    def load(self, directory: Path, threads: int) -> None:
        """Load."""
        import ctranslate2

        self._generator = ctranslate2.Generator(
            str(directory),
            device=self.device,
            compute_type=self.precision,
            inter_threads=1,
            intra_threads=threads,
        )
        names = (directory / "vocabulary.json").read_text(encoding="utf-8")
        import json

        self._pieces: list[str] = json.loads(names)

    def generate(self, job: Job) -> tuple[list[list[int]], list[float]]:
        """One call; its callback tells of each token of each row."""
        marks: list[float] = []
        last = len(job.prompts) - 1

        def clock(step: Any) -> bool:
            if step.batch_id == last:
                marks.append(time.perf_counter())
            return False

        count = job.new_tokens[0]
        options: dict[str, Any] = {"sampling_topk": 1}
        if job.sample:
            options = {"sampling_topk": TOP_K, "sampling_topp": TOP_P}
        if job.shared_prompt:
            prompts = [job.prompts[0][-1:]] * len(job.prompts)
            # The prompt's cache is computed for this call alone, as the other engines do it.
            options |= {
                "static_prompt": self._tokens(job.prompts[0][:-1]),
                "cache_static_prompt": False,
            }
        else:
            prompts = job.prompts
        found = self._generator.generate_batch(
            [self._tokens(prompt) for prompt in prompts],
            max_length=count,
            min_length=count,
            include_prompt_in_result=False,
            callback=clock,
            **options,
        )
        return [list(result.sequences_ids[0]) for result in found], marks

    def logprobs(self, texts: list[list[int]]) -> list[float]:
        """Its own scoring."""
        found = self._generator.score_batch(
            [self._tokens(text) for text in texts], max_batch_size=16
        )
        return [float(sum(result.log_probs)) for result in found]

    def _tokens(self, ids: list[int]) -> list[str]:
        return [self._pieces[token] for token in ids]
