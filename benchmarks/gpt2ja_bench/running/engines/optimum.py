"""Optimum's ``ORTModelForCausalLM`` over Optimum's own graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_bench.running.engines.base import Engine, Job, sum_logprobs
from gpt2ja_bench.running.engines.pytorch import generate

if TYPE_CHECKING:
    from pathlib import Path


class Optimum(Engine):
    """transformers' ``generate`` over onnxruntime, as Optimum offers it."""

    def prepare(self, checkpoint: Path, directory: Path) -> None:
        """Export Optimum's plain graph."""
        from optimum.onnxruntime import ORTModelForCausalLM

        ORTModelForCausalLM.from_pretrained(checkpoint, export=True).save_pretrained(directory)

    def load(self, directory: Path, threads: int) -> None:
        """Load, with the threads of the comparison."""
        import onnxruntime
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM

        torch.set_num_threads(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        provider = "CUDAExecutionProvider" if self.device == "cuda" else "CPUExecutionProvider"
        self._model = ORTModelForCausalLM.from_pretrained(
            directory, provider=provider, session_options=options
        )

    def generate(self, job: Job) -> tuple[list[list[int]], list[float]]:
        """One call."""
        return generate(self._model, job, self.device)

    def logprobs(self, texts: list[list[int]]) -> list[float]:
        """Text by text."""
        import torch

        totals = []
        for text in texts:
            ids = torch.tensor([text], device=self.device)
            logits = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            totals.append(sum_logprobs(logits[0].float().cpu().numpy(), text))
        return totals
