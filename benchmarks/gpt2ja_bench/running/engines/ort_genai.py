"""onnxruntime-genai over Optimum's own graph."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from gpt2ja_bench.running.engines.base import TOP_K, TOP_P, Engine, Job

if TYPE_CHECKING:
    from pathlib import Path


class OrtGenai(Engine):
    """``onnxruntime_genai.Generator``.

    Its model builder knows no GPT-2, but its runtime takes any decoder whose inputs have the
    names that Optimum gives them.
    """

    def prepare(self, checkpoint: Path, directory: Path) -> None:
        """Export Optimum's graph and describe it."""
        from gpt2ja_export import ExportSettings, export_bundle

        settings = ExportSettings(precision="fp32", graph="portable", verify=False)
        export_bundle(str(checkpoint), directory, settings, force=True)
        config = json.loads((directory / "config.json").read_text())
        past = {f"past_{part}_names": f"past_key_values.%d.{part}" for part in ("key", "value")}
        present = {f"present_{part}_names": f"present.%d.{part}" for part in ("key", "value")}
        inputs = {name: name for name in ("input_ids", "attention_mask", "position_ids")}
        decoder = {
            "filename": "model.onnx",
            "head_size": config["n_embd"] // config["n_head"],
            "hidden_size": config["n_embd"],
            "num_attention_heads": config["n_head"],
            "num_key_value_heads": config["n_head"],
            "num_hidden_layers": config["n_layer"],
            "inputs": inputs | past,
            "outputs": {"logits": "logits"} | present,
        }
        model = {
            "type": "phi",
            "context_length": config["n_positions"],
            "vocab_size": config["vocab_size"],
            "bos_token_id": config["bos_token_id"],
            "eos_token_id": config["eos_token_id"],
            "pad_token_id": config["pad_token_id"] or 0,
            "decoder": decoder,
        }
        search = {"past_present_share_buffer": False}
        (directory / "genai_config.json").write_text(json.dumps({"model": model, "search": search}))

    def load(self, directory: Path, threads: int) -> None:
        """Load."""
        import onnxruntime_genai

        self._api = onnxruntime_genai
        config = onnxruntime_genai.Config(str(directory))
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = onnxruntime_genai.Model(config)

    def generate(self, job: Job) -> tuple[list[list[int]], list[float]]:
        """Token by token."""
        start, count = len(job.prompts[0]), job.new_tokens[0]
        options: dict[str, Any] = {
            "max_length": start + count,
            "min_length": start + count,
            "batch_size": len(job.prompts),
            "do_sample": job.sample,
        }
        if job.sample:
            options |= {"top_k": TOP_K, "top_p": TOP_P, "random_seed": job.seed}
        params = self._api.GeneratorParams(self._model)
        params.set_search_options(**options)
        generator = self._api.Generator(self._model, params)
        generator.append_tokens(job.prompts)
        marks: list[float] = []
        while len(marks) < count:
            generator.generate_next_token()
            marks.append(time.perf_counter())
        rows = range(len(job.prompts))
        return [generator.get_sequence(row)[start:].tolist() for row in rows], marks

    def logprobs(self, texts: list[list[int]]) -> list[float]:
        """Not offered."""
        raise NotImplementedError
