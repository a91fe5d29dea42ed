"""From what a caller gives to work that the engine takes: settings, ids, a place in the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.bundle.names import MANIFEST_FILE
from gpt2ja_onnx.calls.choosing import Choosing
from gpt2ja_onnx.constraints.compiler import Compiler
from gpt2ja_onnx.engine.group import SequenceGroup
from gpt2ja_onnx.engine.scoring import ScoringJob
from gpt2ja_onnx.errors import BundleError, Gpt2jaError, PromptError, SettingError
from gpt2ja_onnx.request import Request
from gpt2ja_onnx.settings.config import GenerationConfig
from gpt2ja_onnx.settings.token_ids import check_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.bundle.manifest import Manifest
    from gpt2ja_onnx.calls.choosing import Normalize
    from gpt2ja_onnx.calls.window import Window
    from gpt2ja_onnx.engine.worker import Worker
    from gpt2ja_onnx.settings.keywords import Settings
    from gpt2ja_onnx.text.tokenizer import Tokenizer

    Prompt = str | list[int]
    Prompts = str | Sequence[Prompt]
    Configs = GenerationConfig | Sequence[GenerationConfig] | None


class Intake:
    """Checks what callers give, and submits it.

    Args:
        manifest: Of the bundle.
        tokenizer: The bundle's.
        worker: Takes the work.
        fingerprint: Names what seeds' texts depend on; called when there is a result.

    Attributes:
        defaults: The bundle's settings.

    Raises:
        BundleError: The bundle's settings are some that no request could have.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        worker: Worker,
        fingerprint: Callable[[], str],
    ) -> None:
        self._fingerprint = fingerprint
        self._manifest = manifest
        self._tokenizer = tokenizer
        self._worker = worker
        self._compiler = Compiler(tokenizer)
        known = GenerationConfig.declared()
        named = {
            name: value
            for name, value in manifest.generation_defaults.items()
            if name in known and value is not None
        }
        try:
            self.defaults = GenerationConfig().override(named)
            check_ids(self.defaults, manifest.shape.vocab_size)
        except SettingError as error:
            raise BundleError(
                f"{MANIFEST_FILE}: generation_defaults: {error}; export the bundle again"
            ) from error
        eos = manifest.special_ids.get("eos")
        self._eos = () if eos is None else (eos,)

    def config(self, config: GenerationConfig | None, settings: Settings) -> GenerationConfig:
        """The bundle's defaults, changed by a config and by keywords."""
        chosen = self.defaults if config is None else self.defaults.override(config)
        chosen = chosen.override(settings) if settings else chosen
        chosen.check_together()
        return chosen

    async def prepare(self, config: GenerationConfig) -> None:
        """Compile the form of a config in a thread, so that an event loop does not wait for it."""
        if config.form is not None:
            import asyncio

            await asyncio.to_thread(self._compiler.compile, config)

    def items(
        self, prompts: Prompts, config: Configs, settings: Settings
    ) -> Iterator[tuple[Prompt, GenerationConfig]]:
        """Prompts with their settings; a config for all of them, or one each."""
        texts: Sequence[Prompt] = [prompts] if isinstance(prompts, str) else list(prompts)
        if config is None or isinstance(config, GenerationConfig):
            chosen = self.config(config, settings)
            return ((text, chosen) for text in texts)
        configs = [self.config(one, settings) for one in config]
        if len(configs) != len(texts):
            raise SettingError(f"there are {len(texts)} prompts, but {len(configs)} configs")
        return zip(texts, configs, strict=True)

    def push(
        self,
        window: Window,
        index: int,
        item: tuple[Prompt, GenerationConfig] | Gpt2jaError,
        *,
        wait: bool,
    ) -> None:
        """Submit an item; its error takes its place."""
        if isinstance(item, Gpt2jaError):
            window.push(item)
            return
        prompt, config = item
        try:
            config = self.defaults.override(config)
            config.check_together()
            request = self.submit(prompt, index, config, wait=wait, streamed=False)
        except Gpt2jaError as error:
            window.push(error)
        else:
            window.push(request, config.num_return_sequences)

    def submit_stream(
        self, prompt: Prompt, config: GenerationConfig | None, settings: Settings, *, wait: bool
    ) -> Request:
        """Submit a prompt whose text is read as it comes."""
        chosen = self.config(config, settings)
        if chosen.num_beams > 1:
            raise SettingError(
                f"a stream needs num_beams 1, not {chosen.num_beams}: which text is best shows "
                "only when the search ends; use generate"
            )
        return self.submit(prompt, 0, chosen, wait=wait)

    def submit(
        self,
        prompt: Prompt,
        index: int,
        config: GenerationConfig,
        *,
        wait: bool,
        text: bool = True,
        streamed: bool = True,
    ) -> Request:
        """Submit a prompt.

        Args:
            prompt: Text or ids.
            index: Its position in the call.
            config: All settings.
            wait: Wait while the queue is full.
            text: Whether text is wanted, or ids alone.
            streamed: Whether chunks are wanted.
        """
        prompt_ids = self._encode_prompt(prompt)
        check_ids(config, self._manifest.shape.vocab_size)
        normalize = self._tokenizer.normalize
        group = SequenceGroup(
            prompt_ids,
            config,
            eos=self._eos if config.eos_token_id is None else config.eos_token_id,
            context=self._manifest.shape.context,
            tokenizer=self._tokenizer if text or config.stop else None,
            stop=tuple(dict.fromkeys([*map(normalize, config.stop), *config.stop])),
            streamed=streamed and text,
            grammar=self._compiler.compile(config),
        )
        request = Request(
            group, prompt if isinstance(prompt, str) else "", index, self._fingerprint
        )
        sequences = config.num_return_sequences
        self._worker.submit(group, sequences, len(prompt_ids), wait=wait)
        return request

    def submit_scoring(
        self, texts: Prompts, stride: int | None, best: int | None, *, wait: bool
    ) -> tuple[list[Prompt], ScoringJob]:
        """Submit texts to score; returns them as a list, and the job."""
        most = self._manifest.shape.candidates
        if best is not None and not 0 <= best <= most:
            raise SettingError(f"best must be from 0 to {most}, not {best}")
        context = self._manifest.shape.context
        if stride is not None and not 1 <= stride < context:
            raise SettingError(f"stride must be from 1 to {context - 1}, not {stride}")
        given: list[Prompt] = [texts] if isinstance(texts, str) else list(texts)
        ids = [self._encode(text) for text in given]
        job = ScoringJob(ids, context, stride or context // 2, best or 0)
        self._worker.submit(job, len(given), job.tokens, wait=wait)
        return given, job

    def submit_choice(
        self,
        prompt: Prompt,
        options: Sequence[Prompt],
        normalize: Normalize,
        unconditional: Prompt | None,
        *,
        wait: bool,
    ) -> Choosing:
        """Submit options to score behind a prompt."""
        context = self._manifest.shape.context
        choosing = Choosing(self._encode, context, prompt, options, normalize, unconditional)
        try:
            for job in choosing.jobs:
                self._worker.submit(job, len(job.texts), job.tokens, wait=wait)
        except BaseException:
            choosing.cancel()
            raise
        return choosing

    def _encode(self, text: Prompt) -> list[int]:
        if isinstance(text, str):
            return self._tokenizer.encode(text)
        if not isinstance(text, list):
            raise PromptError(f"a text must be a string or ids, not {type(text).__name__}")
        size = self._manifest.shape.vocab_size
        if not all(isinstance(token, int) and 0 <= token < size for token in text):
            raise PromptError(f"token ids must be whole numbers from 0 to {size - 1}")
        return text

    def _encode_prompt(self, prompt: Prompt) -> NDArray[np.int64]:
        ids = self._encode(prompt)
        context = self._manifest.shape.context
        if not ids:
            raise PromptError("the prompt is empty; give at least one character")
        if len(ids) > context:
            raise PromptError(
                f"the prompt has {len(ids)} tokens, the context is {context}; shorten it"
            )
        return np.asarray(ids, dtype=np.int64)
