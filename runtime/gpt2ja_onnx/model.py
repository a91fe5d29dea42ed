"""What users call: text in, text out."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.bundle.demo import demo_bundle
from gpt2ja_onnx.bundle.manifest import Manifest, read_manifest
from gpt2ja_onnx.device.choice import open_session
from gpt2ja_onnx.device.threads import available_threads, started
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.engine.request import Request
from gpt2ja_onnx.engine.scoring import Score, Scorer, perplexity
from gpt2ja_onnx.engine.worker import Worker
from gpt2ja_onnx.errors import BundleError, Gpt2jaError, PromptError, SettingError
from gpt2ja_onnx.settings import GenerationConfig
from gpt2ja_onnx.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.device.choice import DeviceChoice
    from gpt2ja_onnx.device.cpu.session import Session
    from gpt2ja_onnx.engine.request import Chunk, GenerationResult

Prompt = str | list[int]


class GPT2Ja:
    """A loaded bundle. Every method may be called from any thread.

    Example:
        >>> from gpt2ja_onnx import GPT2Ja
        >>> with GPT2Ja.load() as model:
        ...     results = model.generate("近年の機械学習は", max_new_tokens=8, seed=1)
        >>> len(results)
        1
    """

    def __init__(
        self, manifest: Manifest, tokenizer: Tokenizer, session: Session, engine: Engine
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.defaults = GenerationConfig().override(
            {
                name: value
                for name, value in manifest.generation_defaults.items()
                if name in GenerationConfig.__dataclass_fields__ and value is not None
            }
        )
        self._session = session
        self._worker = Worker(engine)
        self._max_rows = engine.max_rows
        self._scorer = Scorer(session)

    @classmethod
    def load(
        cls,
        directory: str | Path | None = None,
        *,
        threads: int | None = None,
        batch_size: int = 32,
        max_memory: int | None = None,
        device: DeviceChoice = "auto",
        cuda_graphs: bool = True,
        verify_hashes: bool = False,
    ) -> Self:
        """Load a bundle.

        Args:
            directory: The bundle; None loads the demo model.
            threads: Threads of one operator; None takes what this process may use.
            batch_size: Sequences that run at once, at most.
            max_memory: Bytes that the key-value cache may take, at most.
            device: ``cpu``, ``cuda``, or ``auto``: the GPU for a bundle that is made for one, if
                it can be used here, and the CPU otherwise.
            cuda_graphs: On a GPU, replay decoding from captured CUDA graphs.
            verify_hashes: Compare every file's SHA-256 with the manifest.

        Raises:
            BundleError: The bundle is missing, incomplete, altered or not understood.
            ProviderError: onnxruntime cannot run it here.
        """
        path = demo_bundle() if directory is None else Path(directory)
        if batch_size < 1:
            raise SettingError(f"batch_size must be at least 1, not {batch_size}")
        if max_memory is not None and max_memory < 1:
            raise SettingError(f"max_memory must be at least 1 byte, not {max_memory}")
        manifest = read_manifest(path, verify_hashes=verify_hashes)
        if manifest.graph != "fused":
            raise BundleError(
                f"{path}: is a {manifest.graph} bundle for other tools; the runtime runs fused ones"
            )
        # Packing the weights and reading the pieces are most of what a start takes.
        tokenizer_loaded = started(lambda: Tokenizer(path / names.TOKENIZER_FILE))
        try:
            session = open_session(
                path,
                manifest,
                threads=available_threads() if threads is None else threads,
                device=device,
                cuda_graphs=cuda_graphs,
            )
        finally:
            tokenizer = tokenizer_loaded()
        if tokenizer.vocab_size != manifest.shape.vocab_size:
            raise BundleError(
                f"{path}: the tokenizer has {tokenizer.vocab_size} pieces, the manifest says "
                f"{manifest.shape.vocab_size}"
            )
        engine = Engine(
            session, max_rows=batch_size, max_memory=max_memory, cache=session.new_cache()
        )
        return cls(manifest, tokenizer, session, engine)

    # --- text ---

    def generate(
        self,
        prompts: str | Sequence[str],
        config: GenerationConfig | None = None,
        **settings: Any,
    ) -> list[GenerationResult]:
        """Continue one prompt or several.

        Args:
            prompts: A text, or a list of texts.
            config: All settings; None takes the bundle's.
            **settings: Changes to them, by transformers' names: see `GenerationConfig`.

        Returns:
            One flat list, prompt by prompt and sequence by sequence.

        Raises:
            PromptError: A prompt is empty or longer than the context.
            SettingError: A setting is out of its range.
            TypeError: A setting is unknown.
            GenerationError: A request failed.
        """
        chosen = (config or self.defaults).override(settings)
        texts: Sequence[str] = [prompts] if isinstance(prompts, str) else list(prompts)
        outcomes = self.generate_many((text, chosen) for text in texts)
        results: list[GenerationResult] = []
        for outcome in outcomes:
            if isinstance(outcome, Gpt2jaError):
                outcomes.close()
                raise outcome
            results += outcome
        return results

    def generate_many(
        self, items: Iterable[tuple[Prompt, GenerationConfig] | Gpt2jaError]
    ) -> Generator[list[GenerationResult] | Gpt2jaError]:
        """Continue a stream of prompts, each with its own settings, in bounded memory.

        Args:
            items: Prompts with their settings; an error among them is handed through in place.

        Yields:
            For each item, in order: its sequences, or the error that it ended with.
        """
        window: deque[Request | Gpt2jaError] = deque()
        queued = 0  # sequences in the window
        try:
            for index, item in enumerate(items):
                if isinstance(item, Gpt2jaError):
                    window.append(item)
                else:
                    try:
                        window.append(self._submit(item[0], index, item[1]))
                        queued += item[1].num_return_sequences
                    except Gpt2jaError as error:
                        window.append(error)
                # Enough must wait that a freed row never stays empty.
                while queued > 4 * self._max_rows or len(window) > 16 * self._max_rows:
                    outcome = window.popleft()
                    if isinstance(outcome, Request):
                        queued -= outcome.config.num_return_sequences
                    yield _outcome(outcome)
            while window:
                yield _outcome(window.popleft())
        finally:
            for request in window:
                if isinstance(request, Request):
                    request.cancel()

    def stream(
        self, prompt: Prompt, config: GenerationConfig | None = None, **settings: Any
    ) -> Iterator[Chunk]:
        """Continue a prompt and yield its text as it comes.

        The chunks of one sequence join to exactly the text that `generate` gives. Leaving the
        loop early cancels the rest.

        Raises:
            SettingError: `num_beams` is above 1: no text is certain before a beam search ends.
        """
        return _iterate(self._submit_stream(prompt, config, settings))

    def submit(
        self, prompt: Prompt, config: GenerationConfig | None = None, **settings: Any
    ) -> Request:
        """Queue a prompt and return its handle at once: iterate it, or call its `result`."""
        chosen = (config or self.defaults).override(settings)
        return self._submit(prompt, 0, chosen)

    def score(self, texts: str | Sequence[Prompt], *, stride: int | None = None) -> list[Score]:
        """Log-probability and perplexity of texts of any length.

        Args:
            texts: A text, or a list of texts; a text may be a list of token ids.
            stride: Tokens between two windows over a text longer than the context; None takes
                half a context.
        """
        context = self.manifest.shape.context
        if stride is not None and not 1 <= stride < context:
            raise SettingError(f"stride must be from 1 to {context - 1}, not {stride}")
        given: list[Prompt] = [texts] if isinstance(texts, str) else list(texts)
        encoded = [self._encode(text) for text in given]
        shown = [text if isinstance(text, str) else "" for text in given]
        logprobs = self._scorer.score(encoded, stride)
        return [
            Score(name, len(ids), logprob, perplexity(logprob, len(ids)))
            for name, ids, logprob in zip(shown, encoded, logprobs, strict=True)
        ]

    # --- ids ---

    def generate_ids(
        self, input_ids: NDArray[np.integer[Any]], **settings: Any
    ) -> NDArray[np.int64]:
        """Continue prompts of token ids, as transformers' ``generate`` does.

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
        chosen = self.defaults.override(settings)
        rows: list[list[int]] = []
        for outcome in self.generate_many((prompt, chosen) for prompt in array.tolist()):
            if isinstance(outcome, Gpt2jaError):
                raise outcome
            prompt = array[len(rows) // chosen.num_return_sequences].tolist()
            rows += [prompt + result.token_ids for result in outcome]
        pad = self.manifest.special_ids.get("pad", 0)
        output = np.full((len(rows), max(map(len, rows), default=0)), pad, dtype=np.int64)
        for target, row in zip(output, rows, strict=True):
            target[: len(row)] = row
        return output

    # --- asyncio ---

    async def agenerate(
        self,
        prompts: str | Sequence[str],
        config: GenerationConfig | None = None,
        **settings: Any,
    ) -> list[GenerationResult]:
        """`generate` for asyncio: the event loop goes on meanwhile."""
        import asyncio  # takes 40 ms, which most programs of one prompt need not spend

        return await asyncio.to_thread(self.generate, prompts, config, **settings)

    async def astream(
        self, prompt: Prompt, config: GenerationConfig | None = None, **settings: Any
    ) -> AsyncIterator[Chunk]:
        """`stream` for asyncio; cancelling the task cancels the request."""
        import asyncio

        request = self._submit_stream(prompt, config, settings)
        chunks = iter(request)
        try:
            while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                yield chunk
        finally:
            request.cancel()

    # --- life ---

    def close(self) -> None:
        """Finish what was submitted and take nothing more. Closing twice is fine."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside ---

    def _submit_stream(
        self, prompt: Prompt, config: GenerationConfig | None, settings: dict[str, Any]
    ) -> Request:
        chosen = (config or self.defaults).override(settings)
        if chosen.num_beams > 1:
            raise SettingError(
                f"a stream needs num_beams 1, not {chosen.num_beams}: which text is best shows "
                "only when the search ends; use generate"
            )
        return self._submit(prompt, 0, chosen)

    def _submit(self, prompt: Prompt, index: int, config: GenerationConfig) -> Request:
        prompt_ids = self._encode_prompt(prompt)
        for setting in ("suppress_tokens", "bad_words_ids"):
            ids = getattr(config, setting)
            largest = max((int(np.max(item)) for item in ids), default=0)
            if largest >= self.manifest.shape.vocab_size:
                raise SettingError(
                    f"{setting} must hold ids below {self.manifest.shape.vocab_size}, not {largest}"
                )
        request = Request(
            prompt=prompt if isinstance(prompt, str) else "",
            prompt_index=index,
            prompt_ids=prompt_ids,
            config=config,
            tokenizer=self.tokenizer,
            eos=self.manifest.special_ids.get("eos"),
            context=self.manifest.shape.context,
        )
        self._worker.submit(request)
        return request

    def _encode(self, text: Prompt) -> list[int]:
        if isinstance(text, str):
            return self.tokenizer.encode(text)
        if not isinstance(text, list):
            raise PromptError(f"a text must be a string or ids, not {type(text).__name__}")
        size = self.manifest.shape.vocab_size
        if not all(isinstance(token, int) and 0 <= token < size for token in text):
            raise PromptError(f"token ids must be whole numbers from 0 to {size - 1}")
        return text

    def _encode_prompt(self, prompt: Prompt) -> NDArray[np.int64]:
        ids = self._encode(prompt)
        shape = self.manifest.shape
        if not ids:
            raise PromptError("the prompt is empty; give at least one character")
        if len(ids) > shape.context:
            raise PromptError(
                f"the prompt has {len(ids)} tokens, the context is {shape.context}; shorten it"
            )
        return np.asarray(ids, dtype=np.int64)


def _iterate(request: Request) -> Iterator[Chunk]:
    try:
        yield from request
    finally:
        request.cancel()


def _outcome(item: Request | Gpt2jaError) -> list[GenerationResult] | Gpt2jaError:
    if isinstance(item, Gpt2jaError):
        return item
    try:
        return item.result()
    except Gpt2jaError as error:
        return error
