"""This project, through its public interface."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from gpt2ja_bench.running.engines.base import (
    NEUTRAL,
    TOP_K,
    TOP_P,
    Engine,
    Identity,
    Job,
    Output,
)
from gpt2ja_kernels import load_kernels
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.device.cpu.native import STANDARD

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_onnx import Request
    from gpt2ja_onnx.bundle.manifest import Device, Precision


class Ours(Engine):
    """A bundle of this project; batches are continuous, so a queue is one call.

    The precision ``int8 standard`` (``int4 standard``) switches the native operators off.
    """

    def prepare(self, checkpoint: Path, directory: Path) -> None:
        """Export the bundle, or take it as it is if `checkpoint` is one."""
        from gpt2ja_export import ExportSettings, export_bundle

        settings = ExportSettings(
            precision=cast("Precision", self.precision.split()[0]),
            device=cast("Device", self.device),
            verify=False,
        )
        export_bundle(str(checkpoint), directory, settings, force=True)

    def load(self, directory: Path, threads: int) -> None:
        """Load the bundle."""
        self._directory, self._threads = directory, threads
        self._open(1)

    def generate(self, job: Job) -> tuple[list[list[int]], list[float]]:
        """Submit every prompt; the marks are those of the last sequence to get its tokens."""
        if job.rows != self._rows:  # in the call that warms up
            self._model.close()
            self._open(job.rows)
        settings: dict[str, Any] = NEUTRAL | {"do_sample": job.sample, "seed": job.seed}
        if job.sample:
            settings |= {"top_k": TOP_K, "top_p": TOP_P}
        if job.shared_prompt:
            prompts, lengths = job.prompts[:1], job.new_tokens[:1]
            settings["num_return_sequences"] = len(job.prompts)
        else:
            prompts, lengths = job.prompts, job.new_tokens
        requests = [
            self._model.submit(prompt, max_new_tokens=count, min_new_tokens=count, **settings)
            for prompt, count in zip(prompts, lengths, strict=True)
        ]
        marks = _marks(requests[-1], settings.get("num_return_sequences", 1) - 1)
        token_ids = [result.token_ids for request in requests for result in request.result()]
        return token_ids, marks

    def logprobs(self, texts: list[list[int]]) -> list[float]:
        """Score the ids."""
        return [score.logprob for score in self._model.score(texts)]

    def identity(self) -> Identity:
        """The kernels, and the fingerprint that a seed's text is promised within."""
        return Identity(self._model.kernels, self._model.fingerprint)

    def run(self, job: Job) -> Output:
        """The whole job at once: the engine batches it itself.

        Raises:
            RuntimeError: Native operators did not compute what they should have.
        """
        calls = _native_calls()
        started = time.perf_counter()
        token_ids, marks = self.generate(job)
        seconds = time.perf_counter() - started
        calls = _native_calls() - calls
        self._check_kernels(calls, job)
        return Output(token_ids, seconds, [mark - started for mark in marks], calls)

    def _check_kernels(self, calls: int, job: Job) -> None:
        """A run of the graph gives each row one token and calls each of its operators once."""
        runs = -(-sum(job.new_tokens) // job.rows)
        operators = sum(self._model.manifest.quantization.get("operators", {}).values())
        native = self._model.kernels not in (STANDARD, "cuda")
        expected = runs * operators if native else 0
        if calls < expected or (calls > 0 and not native):
            raise RuntimeError(
                f"{self._model.kernels} kernels made {calls} native calls, expected {expected}"
                f"{' or more' if native else ''}"
            )

    def _open(self, rows: int) -> None:
        self._rows = rows
        self._model = GPT2Ja.load(
            self._directory,
            threads=self._threads,
            batch_size=rows,
            device=cast("Device", self.device),
            kernels="off" if self.precision.endswith(" standard") else "auto",
        )


def _native_calls() -> int:
    """Of this process so far."""
    kernels = load_kernels()
    return 0 if isinstance(kernels, str) else kernels.calls


def _marks(request: Request, last: int) -> list[float]:
    """The clock at each token of a request's sequence `last`."""
    return [time.perf_counter() for chunk in request if chunk.sequence_index == last]
