"""llama.cpp through llama-cpp-python's low-level interface, which alone has batches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2ja_bench.running.engines.base import TOP_K, TOP_P, Engine, Job, Output, sum_logprobs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_FILE = "model.gguf"
_GRAIN = 256  # contexts are made for lengths rounded up to this
_BATCH_TOKENS = 4096  # of one call; computed _MICRO_BATCH_TOKENS at a time
_MICRO_BATCH_TOKENS = 2048


class LlamaCpp(Engine):
    """A loop of our own around ``llama_decode``: sequences enter and leave between two steps."""

    def prepare(self, checkpoint: Path, directory: Path) -> None:
        """Write GGUF in fp32, and quantise it with llama.cpp's own quantiser."""
        import llama_cpp

        from gpt2ja_bench.running.engines.gguf_file import write_gguf

        if self.precision == "f32":
            write_gguf(checkpoint, directory / _FILE)
            return
        plain = directory / "plain.gguf"
        write_gguf(checkpoint, plain)
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{self.precision.upper()}")
        status = llama_cpp.llama_model_quantize(
            str(plain).encode(), str(directory / _FILE).encode(), params
        )
        plain.unlink()
        if status:
            raise RuntimeError(f"llama_model_quantize gave {status}")

    def load(self, directory: Path, threads: int) -> None:
        """Load the model; contexts come with the jobs."""
        import llama_cpp

        self._api = llama_cpp
        self._threads = threads
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(directory / _FILE).encode(), params)
        if not self._model:
            raise RuntimeError("llama.cpp cannot load the GGUF file")
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._contexts: dict[tuple[int, int], Any] = {}
        self._batch = llama_cpp.llama_batch_init(_BATCH_TOKENS, 0, 1)

    def run(self, job: Job) -> Output:
        """The whole job in one continuous loop."""
        started = time.perf_counter()
        token_ids, marks = self.generate(job)
        return Output(token_ids, time.perf_counter() - started, [m - started for m in marks])

    def generate(self, job: Job) -> tuple[list[list[int]], list[float]]:
        """Decode all running sequences together; a finished one gives its place to the next."""
        api = self._api
        rows = min(job.rows, len(job.prompts))
        context = self._context(rows, job.positions)
        memory = api.llama_get_memory(context)
        api.llama_memory_clear(memory, True)
        texts: list[list[int]] = [[] for _ in job.prompts]
        waiting = list(range(len(job.prompts)))
        places: dict[int, int] = {}  # place in the context → index of the prompt
        marks: list[float] = []
        samplers = [self._sampler(job, index) for index in range(len(job.prompts))]
        if job.shared_prompt and rows == len(job.prompts):
            self._start_shared(context, memory, job, texts, samplers)
            marks.append(time.perf_counter())
            places, waiting = {index: index for index in waiting}, []
        while places or waiting:
            started = [place for place in range(rows) if place not in places][: len(waiting)]
            entries: list[tuple[int, Sequence[int], int]] = [
                (place, texts[index][-1:], len(job.prompts[index]) + len(texts[index]) - 1)
                for place, index in places.items()
            ]
            for place in started:
                places[place] = waiting.pop(0)
                entries.append((place, job.prompts[places[place]], 0))
            outputs = self._decode(context, entries)
            for place, position in outputs:
                index = places[place]
                texts[index].append(api.llama_sampler_sample(samplers[index], context, position))
            marks.append(time.perf_counter())
            for place, index in list(places.items()):
                if len(texts[index]) == job.new_tokens[index]:
                    api.llama_memory_seq_rm(memory, place, -1, -1)
                    del places[place]
        for sampler in samplers:
            api.llama_sampler_free(sampler)
        return texts, marks

    def logprobs(self, texts: list[list[int]]) -> list[float]:
        """Text by text, with the logits of every position."""
        totals = []
        for text in texts:
            context = self._context(1, len(text))
            self._api.llama_memory_clear(self._api.llama_get_memory(context), True)
            self._fill([(0, text, 0)], every=True)
            self._check(self._api.llama_decode(context, self._batch))
            pointer = self._api.llama_get_logits(context)
            logits = np.ctypeslib.as_array(pointer, shape=(len(text), self._vocab_size))
            totals.append(sum_logprobs(logits, text))
        return totals

    def _start_shared(
        self, context: Any, memory: Any, job: Job, texts: list[list[int]], samplers: list[Any]
    ) -> None:
        """Compute the one prompt once, sample every first token from it, and share its cache."""
        ((_, position),) = self._decode(context, [(0, job.prompts[0], 0)])
        for index, sampler in enumerate(samplers):
            texts[index].append(self._api.llama_sampler_sample(sampler, context, position))
        for index in range(1, len(texts)):
            self._api.llama_memory_seq_cp(memory, 0, index, -1, -1)

    def _decode(
        self, context: Any, entries: Iterable[tuple[int, Sequence[int], int]]
    ) -> list[tuple[int, int]]:
        """Run (sequence, tokens, first position) entries; return where each one's logits are."""
        outputs = self._fill(entries)
        self._check(self._api.llama_decode(context, self._batch))
        return outputs

    def _fill(
        self, entries: Iterable[tuple[int, Sequence[int], int]], *, every: bool = False
    ) -> list[tuple[int, int]]:
        batch, count = self._batch, 0
        outputs = []
        for place, tokens, start in entries:
            for offset, token in enumerate(tokens):
                batch.token[count] = token
                batch.pos[count] = start + offset
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = place
                batch.logits[count] = every or offset == len(tokens) - 1
                count += 1
            outputs.append((place, count - 1))
        batch.n_tokens = count
        return outputs

    def _context(self, rows: int, length: int) -> Any:
        key = (rows, -(-length // _GRAIN) * _GRAIN)
        if key not in self._contexts:
            for context in self._contexts.values():
                self._api.llama_free(context)
            params = self._api.llama_context_default_params()
            params.n_ctx = key[0] * key[1]
            params.n_seq_max = rows
            params.n_batch, params.n_ubatch = _BATCH_TOKENS, _MICRO_BATCH_TOKENS
            params.n_threads = params.n_threads_batch = self._threads
            self._contexts = {key: self._api.llama_init_from_model(self._model, params)}
        return self._contexts[key]

    def _sampler(self, job: Job, index: int) -> Any:
        api = self._api
        chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        if job.sample:
            api.llama_sampler_chain_add(chain, api.llama_sampler_init_top_k(TOP_K))
            api.llama_sampler_chain_add(chain, api.llama_sampler_init_top_p(TOP_P, 1))
            api.llama_sampler_chain_add(chain, api.llama_sampler_init_dist(job.seed + index))
        else:
            api.llama_sampler_chain_add(chain, api.llama_sampler_init_greedy())
        return chain

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise RuntimeError(f"llama_decode gave {status}")
