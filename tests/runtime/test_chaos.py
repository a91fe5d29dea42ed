"""Everything at once: many callers submit, read slowly, cancel, time out, break settings and fail.

A minute by default; GPT2JA_CHAOS_SECONDS asks for more, GPT2JA_CHAOS_SEED for another order of
events. Every request ends, no text differs from the same request alone, and rows, places in the
queue and memory come back.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

from gpt2ja_onnx import GenerationConfig, GPT2Ja
from gpt2ja_onnx.errors import (
    CancelledError,
    GenerationError,
    Gpt2jaError,
    PromptError,
    QueueFullError,
    RequestTimeoutError,
    SettingError,
)
from gpt2ja_onnx.settings.keywords import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SECONDS = float(os.environ.get("GPT2JA_CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("GPT2JA_CHAOS_SEED", "1"))
PROMPTS = ["朝の市場", "図", "この町の鉄道は、大正時代に石炭を運ぶために敷かれた。", "彼は"]
KINDS = [
    Settings(max_new_tokens=12, do_sample=True, seed=1),
    Settings(max_new_tokens=40, do_sample=True, seed=2, top_k=0, top_p=0.9),
    Settings(max_new_tokens=20, num_return_sequences=3, do_sample=True, seed=3, temperature=1.4),
    Settings(max_new_tokens=15, num_beams=3, num_return_sequences=2),
    Settings(max_new_tokens=25, repetition_penalty=1.3, no_repeat_ngram_size=2, stop=["の"]),
    Settings(max_new_tokens=30, do_sample=True, seed=4, top_k=0, presence_penalty=1.0),
    Settings(max_new_tokens=10, logprobs=2, logit_bias={7: 5.0}),
]


def failing(history: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(history) % 5 == 0:
        raise ZeroDivisionError("chaos")
    return scores


class Chaos:
    """Callers that know what each of their requests must say."""

    def __init__(self, model: GPT2Ja) -> None:
        self.model = model
        self.expected = {
            (prompt, kind): [r.token_ids for r in model.generate(PROMPTS[prompt], **KINDS[kind])]
            for prompt in range(len(PROMPTS))
            for kind in range(len(KINDS))
        }
        self.scores = [score.logprob for score in model.score(PROMPTS)]
        self.end = time.monotonic() + SECONDS
        self.counts: dict[str, int] = {}
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def count(self, name: str) -> None:
        with self._lock:
            self.counts[name] = self.counts.get(name, 0) + 1

    def check(self, prompt: int, kind: int, found: list[list[int]]) -> None:
        self.count("right")
        if found != self.expected[prompt, kind]:
            self.wrong.append(f"prompt {prompt}, settings {kind}: {found}")

    def thread(self, seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < self.end:
            try:
                self.act(chance)
            except (QueueFullError, CancelledError, RequestTimeoutError) as error:
                self.count(type(error).__name__)
            except BaseException as error:  # nothing else may come out
                self.wrong.append(repr(error))
                raise

    def act(self, chance: random.Random) -> None:
        prompt, kind = chance.randrange(len(PROMPTS)), chance.randrange(len(KINDS))
        settings = KINDS[kind]
        match chance.randrange(9):
            case 0 | 1:
                results = self.model.generate(PROMPTS[prompt], **settings)
                self.check(prompt, kind, [r.token_ids for r in results])
            case 2:
                handle = self.model.submit(PROMPTS[prompt], **settings)
                for _ in handle:
                    time.sleep(chance.random() * 0.02)  # reads slowly
                self.check(prompt, kind, [r.token_ids for r in handle.result()])
            case 3:
                handle = self.model.submit(PROMPTS[prompt], **settings)
                time.sleep(chance.random() * 0.05)
                handle.cancel()
                found = [r.token_ids for r in handle.result()]
                self.check(prompt, kind, found)  # it may have ended before
            case 4:
                late = GenerationConfig(**settings).override(
                    {"timeout": 0.001 + chance.random() / 9}
                )
                found = [r.token_ids for r in self.model.generate(PROMPTS[prompt], late)]
                self.check(prompt, kind, found)
            case 5:
                with pytest.raises(GenerationError, match=r"failing failed: chaos|leave the beams"):
                    self.model.generate(
                        PROMPTS[prompt], max_new_tokens=9, logits_processors=[failing]
                    )
                self.count("failed")
            case 6:
                wrong = chance.choice(
                    [Settings(top_k=2**63), Settings(top_p=2), Settings(suppress_tokens=[9999])]
                )
                with pytest.raises(SettingError):
                    self.model.generate(PROMPTS[prompt], **wrong)
                with pytest.raises(PromptError):
                    self.model.generate("")
                self.count("refused")
            case 7:
                stream = self.model.stream(PROMPTS[prompt], max_new_tokens=50)
                for _ in range(chance.randrange(4)):
                    next(stream)
                del stream  # left, perhaps before it began
                self.count("left")
            case _:
                if self.model.score(PROMPTS[prompt])[0].logprob != self.scores[prompt]:
                    self.wrong.append(f"score of prompt {prompt}")
                self.count("scored")

    async def task(self, seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < self.end:
            prompt, kind = chance.randrange(len(PROMPTS)), chance.randrange(len(KINDS))
            call = asyncio.create_task(self.model.agenerate(PROMPTS[prompt], **KINDS[kind]))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.05)
                call.cancel()
            try:
                self.check(prompt, kind, [r.token_ids for r in await call])
            except (asyncio.CancelledError, Gpt2jaError) as error:
                self.count(type(error).__name__)

    def loop(self, seed: int) -> None:
        async def tasks() -> None:
            await asyncio.gather(*(self.task(seed * 100 + index) for index in range(12)))

        asyncio.run(tasks())


@pytest.fixture
def chaotic(bundles: dict[str, Path]) -> Iterator[GPT2Ja]:
    with GPT2Ja.load(bundles["int8"], batch_size=8, max_waiting=60, max_memory=2_000_000) as model:
        yield model


def test_chaos(chaotic: GPT2Ja) -> None:
    chaos = Chaos(chaotic)
    threads = [
        threading.Thread(target=chaos.thread, args=(SEED * 1000 + index,)) for index in range(12)
    ]
    threads += [threading.Thread(target=chaos.loop, args=(SEED + index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 60)
        assert not thread.is_alive(), "a request never ended"
    assert chaos.wrong == []
    for name in ("right", "failed", "refused", "left", "scored", "CancelledError"):
        assert chaos.counts.get(name, 0) > 0, (name, chaos.counts)
    worker, engine = chaotic._worker, chaotic._worker._engine
    end = time.monotonic() + 10
    while not engine.idle or engine.batch.cache.nbytes:
        assert time.monotonic() < end, "rows or memory did not come back"
        time.sleep(0.05)
    assert worker.waiting == (0, 0)
