"""What users call: text in, text out."""

from __future__ import annotations

import functools
import math
import weakref
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.bundle.hub import open_bundle
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.calls.intake import Intake
from gpt2ja_onnx.calls.window import Window, aoutcome, outcome
from gpt2ja_onnx.device.choice import open_session
from gpt2ja_onnx.device.providers import ort
from gpt2ja_onnx.device.threads import available_threads, started
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.engine.worker import Worker
from gpt2ja_onnx.errors import BundleError, Gpt2jaError, PromptError, SettingError
from gpt2ja_onnx.results import Score
from gpt2ja_onnx.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from gpt2ja_onnx.bundle.manifest import Device, Manifest
    from gpt2ja_onnx.calls.choosing import Normalize
    from gpt2ja_onnx.calls.intake import Configs, Prompt, Prompts
    from gpt2ja_onnx.calls.window import Outcome
    from gpt2ja_onnx.device.base import Session
    from gpt2ja_onnx.device.choice import DeviceChoice
    from gpt2ja_onnx.device.cpu.native import KernelChoice
    from gpt2ja_onnx.engine.scoring import Best, ScoringJob
    from gpt2ja_onnx.request import Request
    from gpt2ja_onnx.results import ChoiceResult, Chunk, EngineStatistics, GenerationResult
    from gpt2ja_onnx.settings.config import GenerationConfig
    from gpt2ja_onnx.settings.keywords import Settings

PREFIX_CACHE_BYTES = 2**27  # the published model's in int8: some 7,000 tokens


class GPT2Ja:
    """A loaded bundle. Every method may be called from any thread, and from asyncio.

    Example:
        >>> from gpt2ja_onnx import GPT2Ja
        >>> with GPT2Ja.load() as model:
        ...     results = model.generate("近年の機械学習は", max_new_tokens=8, seed=1)
        >>> len(results)
        1

    Attributes:
        manifest: What the bundle says of itself.
        tokenizer: The bundle's tokenizer.
        device: What it runs on: ``cpu`` or ``cuda``.
        batch_size: Sequences that run at once, at most.
        kernels: What computes the graph: ``avx512_vnni`` or ``avx2`` for native operators,
            ``standard`` for onnxruntime's own, or ``cuda``.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        session: Session,
        *,
        device: Device = "cpu",
        batch_size: int = 32,
        max_memory: int | None = None,
        max_waiting: int = 16_384,
        max_waiting_tokens: int = 4_194_304,
        prefix_cache_bytes: int = PREFIX_CACHE_BYTES,
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.device = device
        self.batch_size = batch_size
        engine = Engine(
            session,
            max_rows=batch_size,
            max_memory=max_memory,
            prefix_cache_bytes=prefix_cache_bytes,
        )
        self.kernels = kernels = session.kernels
        self._fingerprint = functools.cache(
            lambda: f"{manifest.digest}-ort{ort.__version__}-{kernels}"
        )
        self._worker = Worker(
            engine, max_waiting=max_waiting, max_waiting_tokens=max_waiting_tokens
        )
        self._intake = Intake(manifest, tokenizer, self._worker, self._fingerprint)
        # A model that nobody holds any more finishes what handles still wait for, and goes.
        finalizer = weakref.finalize(self, self._worker.close, wait=False)
        finalizer.atexit = False

    @classmethod
    def load(
        cls,
        directory: str | Path | None = None,
        *,
        threads: int | None = None,
        batch_size: int = 32,
        max_memory: int | None = None,
        max_waiting: int = 16_384,
        max_waiting_tokens: int = 4_194_304,
        prefix_cache_bytes: int = PREFIX_CACHE_BYTES,
        device: DeviceChoice = "auto",
        kernels: KernelChoice = "auto",
        cuda_graphs: bool = True,
        verify_hashes: bool = False,
    ) -> Self:
        """Load a bundle.

        Args:
            directory: The bundle; None or ``demo`` loads the demo model. A model of the hub, as
                ``colorfulscoop/gpt2-small-ja`` or ``owner/name@revision``, is exported into the
                user's cache when it is first asked for, which needs the extra ``export``.
            threads: Threads of one operator; None takes what this process may use.
            batch_size: Sequences that run at once, at most.
            max_memory: Bytes that the key-value cache may take, at most.
            max_waiting: Sequences that may wait for a row. Beyond, `submit` and the calls for
                asyncio raise `QueueFullError`, the others wait.
            max_waiting_tokens: Prompt tokens that may wait, likewise.
            prefix_cache_bytes: Bytes, beside `max_memory`, for keys and values of earlier
                prompts: one that begins like them is computed from there on. 0 keeps none. On a
                GPU none are kept.
            device: ``cpu``, ``cuda``, or ``auto``: the GPU for a bundle that is made for one, if
                it can be used here, and the CPU otherwise.
            kernels: On the CPU, ``auto`` runs native operators where they can, and ``off``
                onnxruntime's own. The two round differently, so a seed may give another text.
            cuda_graphs: On a GPU, replay decoding from captured CUDA graphs.
            verify_hashes: Compare every file's SHA-256 with the manifest.

        Raises:
            BundleError: The bundle is missing, incomplete, altered or not understood.
            ProviderError: onnxruntime cannot run it here.
            SettingError: A number is out of its range.
        """
        path = open_bundle(directory, cuda=device == "cuda")
        for name, value in (
            ("batch_size", batch_size),
            ("max_memory", max_memory),
            ("max_waiting", max_waiting),
            ("max_waiting_tokens", max_waiting_tokens),
        ):
            if value is not None and value < 1:
                raise SettingError(f"{name} must be at least 1, not {value}")
        if prefix_cache_bytes < 0:
            raise SettingError(f"prefix_cache_bytes must be at least 0, not {prefix_cache_bytes}")
        manifest = read_manifest(path, verify_hashes=verify_hashes)
        if manifest.graph != "fused":
            raise BundleError(
                f"{path}: is a {manifest.graph} bundle for other tools; the runtime runs fused ones"
            )
        # Packing the weights and reading the pieces are most of what a start takes.
        tokenizer_loaded = started(
            lambda: Tokenizer(
                path / names.TOKENIZER_FILE, manifest.tokenizer, manifest.shape.vocab_size
            )
        )
        try:
            chosen, session = open_session(
                path,
                manifest,
                threads=available_threads() if threads is None else threads,
                device=device,
                kernels=kernels,
                cuda_graphs=cuda_graphs,
            )
        finally:
            tokenizer = tokenizer_loaded()
        if tokenizer.pieces > manifest.shape.vocab_size:
            raise BundleError(
                f"{path}: the tokenizer has {tokenizer.pieces} pieces, the model a vocabulary of "
                f"{manifest.shape.vocab_size}"
            )
        return cls(
            manifest,
            tokenizer,
            session,
            device=chosen,
            batch_size=batch_size,
            max_memory=max_memory,
            max_waiting=max_waiting,
            max_waiting_tokens=max_waiting_tokens,
            prefix_cache_bytes=prefix_cache_bytes,
        )

    @property
    def defaults(self) -> GenerationConfig:
        """The bundle's settings, which those that are not given take."""
        return self._intake.defaults

    @property
    def fingerprint(self) -> str:
        """Names bundle, onnxruntime and kernels; where it is the same, so is a seed's text."""
        return self._fingerprint()

    def statistics(self) -> EngineStatistics:
        """What runs and waits now, and what was done since the model was loaded."""
        return self._worker.statistics()

    def __repr__(self) -> str:
        shape = self.manifest.shape
        return (
            f"<GPT2Ja {self.manifest.source.repository}, {shape.layers} layers of {shape.width}, "
            f"{self.manifest.precision} on {self.device}>"
        )

    # --- text ---

    def generate(
        self, prompts: Prompts, config: Configs = None, **settings: Unpack[Settings]
    ) -> list[GenerationResult]:
        """Continue one prompt or several.

        Args:
            prompts: A text, or a list of texts or of lists of token ids.
            config: Settings for all prompts, or one config a prompt; what is not given takes the
                bundle's defaults.
            **settings: Changes to them, by transformers' names: see `GenerationConfig`.

        Returns:
            One flat list, prompt by prompt and sequence by sequence.

        Raises:
            PromptError: A prompt is empty or longer than the context.
            SettingError: A setting is out of its range, or there is none of its name.
            GenerationError: A request failed.
        """
        results: list[GenerationResult] = []
        outcomes = self.generate_many(self._intake.items(prompts, config, settings))
        for index, found in enumerate(outcomes):
            if isinstance(found, Gpt2jaError):
                outcomes.close()
                raise _at(found, index, prompts)
            results += found
        return results

    def generate_many(
        self, items: Iterable[tuple[Prompt, GenerationConfig] | Gpt2jaError]
    ) -> Generator[Outcome]:
        """Continue a stream of prompts, each with its own settings, in bounded memory.

        Args:
            items: Prompts with their settings; an error among them is handed through in place.

        Yields:
            For each item, in order: its sequences, or the error that it ended with.
        """
        window = Window(self.batch_size)
        try:
            for index, item in enumerate(items):
                self._intake.push(window, index, item, wait=True)
                while window.full or window.first_done:
                    found = outcome(window.first())
                    window.pop()
                    yield found
            while window:
                found = outcome(window.first())
                window.pop()
                yield found
        finally:
            window.cancel()

    def stream(
        self, prompt: Prompt, config: GenerationConfig | None = None, **settings: Unpack[Settings]
    ) -> Generator[Chunk]:
        """Continue a prompt and yield its text as it comes.

        The chunks of one sequence join to exactly the text that `generate` gives. Leaving the
        loop early cancels the rest.

        Raises:
            SettingError: `num_beams` is above 1: no text is certain before a beam search ends.
        """
        return _iterate(self._intake.submit_stream(prompt, config, settings, wait=True))

    def submit(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        wait: bool = False,
        streamed: bool = True,
        **settings: Unpack[Settings],
    ) -> Request:
        """Queue a prompt and return its handle at once: iterate it, await it, or call its `result`.

        Args:
            prompt: A text, or token ids.
            config: Its settings; what is not given takes the bundle's defaults.
            wait: Wait while the queue is full.
            streamed: Whether the chunks will be read; without, only the result is kept.
            **settings: Changes to them, by transformers' names: see `GenerationConfig`.

        Raises:
            QueueFullError: The queue is full, and `wait` is not set.
        """
        chosen = self._intake.config(config, settings)
        return self._intake.submit(prompt, 0, chosen, wait=wait, streamed=streamed)

    def score(
        self, texts: Prompts, *, stride: int | None = None, best: int | None = None
    ) -> list[Score]:
        """Log-probability and perplexity of texts of any length.

        Args:
            texts: A text, or a list of texts; a text may be a list of token ids.
            stride: Tokens between two windows over a text longer than the context; None takes
                half a context.
            best: Report so many of the likeliest tokens at every position, at most the bundle's
                candidates (64).
        """
        given, job = self._intake.submit_scoring(texts, stride, best, wait=True)
        try:
            job.channel.join()
        except BaseException:
            job.cancelled = True
            raise
        return _scores(given, job, best)

    def choose(
        self,
        prompt: Prompt,
        options: Sequence[Prompt],
        *,
        normalize: Normalize = "tokens",
        unconditional: Prompt | None = None,
    ) -> ChoiceResult:
        """Say which of several continuations of a prompt is the likeliest; nothing is generated.

        A longer prompt is computed once for all options. Log-probabilities are those of `score`,
        bit for bit. White space at the prompt's end goes to the options; then prompt and option
        are encoded together, and the tokens behind the prompt's number are the option's, as in
        lm-evaluation-harness.

        Args:
            prompt: A text, or token ids.
            options: Its continuations: texts, or ids if the prompt is ids.
            normalize: What an option's score is: ``none``, its log-probability (`acc` in
                lm-evaluation-harness); ``tokens`` or ``characters``, that per token or character
                (the latter is `acc_norm`); ``unconditional``, less that behind another prompt.
            unconditional: That other prompt, which says nothing of the question, as ``答え：``.

        Raises:
            PromptError: Something is empty, too long for the context, or not all texts or all
                ids; or an option has no token of its own behind the prompt.
            SettingError: `normalize` and `unconditional` do not fit together.
            GenerationError: The scoring failed.
        """
        choosing = self._intake.submit_choice(prompt, options, normalize, unconditional, wait=True)
        try:
            for job in choosing.jobs:
                job.channel.join()
        except BaseException:
            choosing.cancel()
            raise
        return choosing.result()

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has; prompt and continuation together fit into the context."""
        return len(self.tokenizer.encode(text))

    # --- ids ---

    def generate_ids(
        self, input_ids: NDArray[np.integer[Any]], **settings: Unpack[Settings]
    ) -> NDArray[np.int64]:
        """Continue prompts of token ids, as transformers' ``generate`` does; no text is made.

        Args:
            input_ids: Shape (rows, length) or (length,).
            **settings: As for `generate`.

        Returns:
            Prompts with their continuations, shape (rows × num_return_sequences, longest);
            shorter ones are padded on the right with the padding token.
        """
        array = np.atleast_2d(np.asarray(input_ids))
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
            raise PromptError("input_ids must be whole numbers of shape (rows, length)")
        config = self._intake.config(None, settings)
        rows: list[list[int]] = []
        window = Window(self.batch_size)
        prompts = array.tolist()

        def wait() -> None:
            request = window.first()
            if isinstance(request, Gpt2jaError):
                raise request
            window_results = request.result()
            window.pop()
            prompt = prompts[len(rows) // config.num_return_sequences]
            rows.extend(prompt + result.token_ids for result in window_results)

        try:
            for index, prompt in enumerate(prompts):
                request = self._intake.submit(prompt, index, config, wait=True, text=False)
                window.push(request, config.num_return_sequences)
                while window.full:
                    wait()
            while window:
                wait()
        finally:
            window.cancel()
        pad = self.manifest.special_ids.get("pad", 0)
        output = np.full((len(rows), max(map(len, rows), default=0)), pad, dtype=np.int64)
        for target, row in zip(output, rows, strict=True):
            target[: len(row)] = row
        return output

    # --- asyncio ---

    async def aprepare(
        self, config: GenerationConfig | None = None, **settings: Unpack[Settings]
    ) -> None:
        """Compile the form that a config asks for in a thread, and keep it for `submit`.

        `submit` compiles by itself what it has not met lately. That takes milliseconds, for a
        large form up to a second, in which an event loop would stand still; so `agenerate` and
        `astream` call this first. Without a form nothing is done.

        Raises:
            SettingError: The form is malformed, or no text of the vocabulary's has it.
        """
        await self._intake.prepare(self._intake.config(config, settings))

    async def agenerate(
        self, prompts: Prompts, config: Configs = None, **settings: Unpack[Settings]
    ) -> list[GenerationResult]:
        """`generate` for asyncio, without a thread; cancelling the task cancels the requests.

        Raises:
            QueueFullError: So much waits already that nothing more is taken.
        """
        results: list[GenerationResult] = []
        window = Window(self.batch_size)
        done = 0
        try:
            for index, item in enumerate(self._intake.items(prompts, config, settings)):
                await self._intake.prepare(item[1])
                self._intake.push(window, index, item, wait=False)
                while window.full:
                    results += _raised(await aoutcome(window.first()), done, prompts)
                    window.pop()
                    done += 1
            while window:
                results += _raised(await aoutcome(window.first()), done, prompts)
                window.pop()
                done += 1
        finally:
            window.cancel()
        return results

    async def astream(
        self, prompt: Prompt, config: GenerationConfig | None = None, **settings: Unpack[Settings]
    ) -> AsyncGenerator[Chunk]:
        """`stream` for asyncio, without a thread; cancelling the task cancels the request.

        Raises:
            QueueFullError: So much waits already that nothing more is taken.
        """
        await self.aprepare(config, **settings)
        request = self._intake.submit_stream(prompt, config, settings, wait=False)
        try:
            async for chunk in request:
                yield chunk
        finally:
            request.cancel()

    async def ascore(
        self, texts: Prompts, *, stride: int | None = None, best: int | None = None
    ) -> list[Score]:
        """`score` for asyncio, without a thread; cancelling the task cancels the scoring.

        Raises:
            QueueFullError: So much waits already that nothing more is taken.
        """
        given, job = self._intake.submit_scoring(texts, stride, best, wait=False)
        try:
            await job.channel.ajoin()
        except BaseException:
            job.cancelled = True
            raise
        return _scores(given, job, best)

    async def achoose(
        self,
        prompt: Prompt,
        options: Sequence[Prompt],
        *,
        normalize: Normalize = "tokens",
        unconditional: Prompt | None = None,
    ) -> ChoiceResult:
        """`choose` for asyncio, without a thread; cancelling the task cancels the scoring.

        Raises:
            QueueFullError: So much waits already that nothing more is taken.
        """
        choosing = self._intake.submit_choice(prompt, options, normalize, unconditional, wait=False)
        try:
            for job in choosing.jobs:
                await job.channel.ajoin()
        except BaseException:
            choosing.cancel()
            raise
        return choosing.result()

    # --- life ---

    def close(self, *, cancel: bool = False) -> None:
        """Take nothing more. Closing twice is fine.

        Args:
            cancel: Cancel what was submitted instead of finishing it.
        """
        self._worker.close(cancel=cancel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Finish what was submitted, or cancel it where an exception leaves the block."""
        self.close(cancel=kind is not None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        """As ``with``, without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.close, cancel=kind is not None)


def _iterate(request: Request) -> Generator[Chunk]:
    try:
        yield from request
    finally:
        request.cancel()


def _raised(found: Outcome, index: int, prompts: Prompts) -> list[GenerationResult]:
    if isinstance(found, Gpt2jaError):
        raise _at(found, index, prompts)
    return found


def _at(error: Gpt2jaError, index: int, prompts: Prompts) -> Gpt2jaError:
    """An error that says which of several prompts it is of."""
    if isinstance(prompts, str) or len(prompts) == 1:
        return error
    told = type(error)(f"prompt {index}: {error}")
    told.__cause__ = error
    return told


def _scores(given: list[Prompt], job: ScoringJob, best: int | None) -> list[Score]:
    if job.error is not None:
        raise job.error
    return [
        Score(
            text=text if isinstance(text, str) else "",
            tokens=len(ids),
            # Rounded once, so that a sum does not depend on how the text was cut.
            logprob=(total := math.fsum(logprobs)),
            perplexity=perplexity(total, len(ids)),
            token_ids=list(ids),
            token_logprobs=[None if i == 0 else float(p) for i, p in enumerate(logprobs)],
            best=None if best is None else _best(likeliest),
        )
        for text, ids, logprobs, likeliest in zip(
            given, job.texts, job.logprobs, job.best, strict=True
        )
    ]


def _best(likeliest: Best) -> list[list[tuple[int, float]] | None]:
    """The likeliest tokens of each position; None for the first."""
    found: list[list[tuple[int, float]] | None] = [
        list(zip(ids, logprobs, strict=True))
        for ids, logprobs in zip(likeliest.ids.tolist(), likeliest.logprobs.tolist(), strict=True)
    ]
    return [None, *found[1:]] if found else []


def perplexity(logprob: float, tokens: int) -> float | None:
    """Exp of the mean negative log-probability of the tokens that were scored."""
    if tokens < 2:
        return None
    mean = -logprob / (tokens - 1)
    return math.exp(mean) if mean < 700 else math.inf
