"""OpenVINO GenAI over the graph that Optimum Intel exports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2ja_bench.running.engines.base import TOP_K, TOP_P, Engine, Job

if TYPE_CHECKING:
    from pathlib import Path


class OpenVino(Engine):
    """``openvino_genai.LLMPipeline`` on the CPU; the precision is that of the weights."""

    def prepare(self, checkpoint: Path, directory: Path) -> None:
        """Export with Optimum Intel, as OpenVINO's pages tell users to."""
        import openvino
        from openvino_tokenizers import convert_tokenizer
        from optimum.intel import OVModelForCausalLM
        from transformers import AutoTokenizer

        model = OVModelForCausalLM.from_pretrained(
            checkpoint, export=True, compile=False, load_in_8bit=self.precision == "int8"
        )
        model.save_pretrained(directory)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        names = ("openvino_tokenizer.xml", "openvino_detokenizer.xml")
        converted = convert_tokenizer(tokenizer, with_detokenizer=True)
        for name, graph in zip(names, converted, strict=True):
            openvino.save_model(graph, directory / name)

    def load(self, directory: Path, threads: int) -> None:
        """Load; computes in fp32 where the processor would make it bf16 by default."""
        import openvino_genai

        self._pipeline = openvino_genai.LLMPipeline(
            str(directory),
            "CPU",
            INFERENCE_PRECISION_HINT="f32",
            INFERENCE_NUM_THREADS=threads,
        )

    def generate(self, job: Job) -> tuple[list[list[int]], list[float]]:
        """One call; the clock is the library's own."""
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = job.new_tokens[0]
        config.ignore_eos = True
        config.do_sample = job.sample
        if job.sample:
            config.top_k, config.top_p, config.rng_seed = TOP_K, TOP_P, job.seed
        prompts = job.prompts
        if job.sample and job.shared_prompt:
            config.num_return_sequences, prompts = len(prompts), prompts[:1]
        ids = np.asarray(prompts, dtype=np.int64)
        tensors = (openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        found: Any = self._pipeline.generate(openvino_genai.TokenizedInputs(*tensors), config)
        # Milliseconds of the steady clock, which is Python's perf_counter on Linux.
        marks = [mark / 1000 for mark in found.perf_metrics.raw_metrics.m_new_token_times]
        return [list(tokens) for tokens in found.tokens], marks

    def logprobs(self, texts: list[list[int]]) -> list[float]:
        """Not offered for a given text."""
        raise NotImplementedError
