"""transformers on PyTorch: eager, and with a static cache and ``torch.compile``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gpt2ja_bench.running.engines.base import NEUTRAL, TOP_K, TOP_P, Engine, Job, sum_logprobs

if TYPE_CHECKING:
    from pathlib import Path


_GRAIN = 128  # positions; shapes that differ are compiled anew


def generate(model: Any, job: Job, device: str, **options: Any) -> tuple[Any, list[float]]:
    """``generate`` of a transformers model, with the clock at each token.

    Returns:
        New tokens of shape (rows, new tokens) as a list, and the clock at each.
    """
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    marks: list[float] = []

    class Clock(StoppingCriteria):  # transformers calls it after each token
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            if device == "cuda":
                torch.cuda.synchronize()
            marks.append(time.perf_counter())
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    prompt, count = job.prompts[0], job.new_tokens[0]
    if job.shared_prompt:
        ids = torch.tensor([prompt], device=device)
        options["num_return_sequences"] = len(job.prompts)
    else:
        ids = torch.tensor(job.prompts, device=device)
    if job.sample:
        torch.manual_seed(job.seed)
        options |= {"do_sample": True, "top_k": TOP_K, "top_p": TOP_P}
    else:
        options["do_sample"] = False
    options |= NEUTRAL
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([Clock()]),
        **options,
    )
    return found[:, len(prompt) :].tolist(), marks


class Torch(Engine):
    """transformers' ``generate`` on PyTorch.

    The precision ``fp32 compiled`` (``fp16 compiled``) takes a static cache and compiles the
    forward pass.
    """

    def prepare(self, checkpoint: Path, directory: Path) -> None:
        """Write the checkpoint again, in the precision that it is loaded in."""
        import torch
        from transformers import GPT2LMHeadModel

        dtype = torch.float16 if self.precision.startswith("fp16") else torch.float32
        model = GPT2LMHeadModel.from_pretrained(checkpoint, dtype=dtype)
        model.save_pretrained(directory)

    def load(self, directory: Path, threads: int) -> None:
        """Load, and compile where that is asked for."""
        import torch
        from transformers import GPT2LMHeadModel

        torch.set_num_threads(threads)
        model = GPT2LMHeadModel.from_pretrained(directory, dtype="auto").eval()
        self._model = model.to(self.device)
        self._options: dict[str, Any] = {}
        if self.precision.endswith("compiled"):
            self._model.forward = torch.compile(self._model.forward)
            self._options = {"disable_compile": True}  # transformers would compile it once more

    def generate(self, job: Job) -> tuple[list[list[int]], list[float]]:
        """One call."""
        import torch

        options = dict(self._options)
        if self.precision.endswith("compiled"):
            options["past_key_values"] = self._static_cache(job)
        with torch.inference_mode():
            return generate(self._model, job, self.device, **options)

    def _static_cache(self, job: Job) -> Any:
        """A cache of fixed shape, as wide for the call that warms up as for those that follow."""
        from transformers import StaticCache

        config = self._model.config
        capacity = min(-(-job.positions // _GRAIN) * _GRAIN, config.n_positions)
        return StaticCache(config=config, max_cache_len=capacity)

    def logprobs(self, texts: list[list[int]]) -> list[float]:
        """One padded batch a 16 texts: later tokens do not change earlier logits."""
        import torch

        totals = []
        for start in range(0, len(texts), 16):
            group = texts[start : start + 16]
            longest = max(map(len, group))
            ids = torch.tensor([text + [0] * (longest - len(text)) for text in group])
            with torch.inference_mode():
                logits = self._model(ids.to(self.device)).logits.float().cpu().numpy()
            totals += [sum_logprobs(row, text) for row, text in zip(logits, group, strict=True)]
        return totals
