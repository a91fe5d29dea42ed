"""Prompts as ids, and what of them is echoed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt2ja_serve.api.token_texts import prompt_logprobs
from gpt2ja_serve.http.errors import refused

if TYPE_CHECKING:
    from gpt2ja_onnx import GPT2Ja
    from gpt2ja_serve.api.answers import Logprobs
    from gpt2ja_serve.api.request import CompletionRequest, Prompt

# Characters from which on a text is read in a thread: a million take some 0.1 s.
LONG = 20_000


@dataclass(slots=True)
class Prepared:
    """A prompt.

    Attributes:
        ids: Its tokens.
        texts: The part of the prompt that each token stands for, where log-probabilities are
            wanted and the prompt is a text.
        echoed: What the text begins with; empty without echo.
        logprobs: Of the prompt, where asked for.
    """

    ids: list[int]
    texts: list[str] | None
    echoed: str
    logprobs: Logprobs | None = None


async def prepare(request: CompletionRequest, model: GPT2Ja) -> list[Prepared]:
    """Tokenise the prompts, and score them where that is asked for.

    Raises:
        ApiError: A prompt is empty, or longer than the context.
        Gpt2jaError: Scoring failed, or the form of the text is malformed.
    """

    def read() -> list[Prepared]:
        return [_read(prompt, request, model) for prompt in request.prompts]

    if request.config is not None:
        await model.aprepare(request.config)
    characters = sum(len(prompt) for prompt in request.prompts if isinstance(prompt, str))
    prepared = await asyncio.to_thread(read) if characters > LONG else read()
    context = model.manifest.shape.context
    for index, prompt in enumerate(prepared):
        where = f"prompt {index}: " if len(prepared) > 1 else ""
        if not prompt.ids:
            raise refused(f"{where}the prompt has no tokens; give at least one character", "prompt")
        # Without anything to generate a text is only scored, in windows where it is long.
        if request.config is not None and len(prompt.ids) > context:
            raise refused(
                f"{where}the prompt has {len(prompt.ids)} tokens, the context is {context}; "
                "shorten it",
                "prompt",
                "context_length_exceeded",
            )
    if request.logprobs is not None and request.echo:
        await _score(prepared, request.logprobs, model)
    return prepared


def _read(prompt: Prompt, request: CompletionRequest, model: GPT2Ja) -> Prepared:
    if not isinstance(prompt, str):
        return Prepared(prompt, None, model.tokenizer.piece_text(prompt) if request.echo else "")
    if not request.scored:
        return Prepared(model.tokenizer.encode(prompt), None, prompt if request.echo else "")
    ids, texts = model.tokenizer.encode_with_texts(prompt)
    return Prepared(ids, texts, "".join(texts))


async def _score(prepared: list[Prepared], best: int, model: GPT2Ja) -> None:
    scores = await model.ascore([prompt.ids for prompt in prepared], best=best)
    for prompt, score in zip(prepared, scores, strict=True):
        prompt.logprobs = prompt_logprobs(model.tokenizer, score, prompt.texts)
        await asyncio.sleep(0)  # a long prompt takes some milliseconds, in which others wait
