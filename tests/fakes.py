"""A device without a model: scores that depend on every cached token, so that each mix-up shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import numpy as np

from gpt2ja_onnx.bundle.manifest import ModelShape
from gpt2ja_onnx.device.base import HostLogits, Scores
from gpt2ja_onnx.device.cpu.cache import CpuCache
from gpt2ja_onnx.device.log_normaliser import log_normalisers
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.engine.group import SequenceGroup
from gpt2ja_onnx.settings.config import GenerationConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from gpt2ja_onnx.device.base import Floats, Ids, Lengths
    from gpt2ja_onnx.settings.keywords import Settings

CURSED = 11  # a prompt that begins with it has broken scores at every seventh position
SHAPE = ModelShape(layers=1, width=8, heads=1, context=96, vocab_size=12, candidates=12)


class FakePlan:
    """Writes each token into the cache and answers with scores that depend on all cached ones.

    Every position has the scores of the last one.
    """

    def __init__(
        self,
        session: FakeSession,
        caches: Sequence[NDArray[np.generic]],
        rows: int,
        new: int,
        positions: int = 1,
    ) -> None:
        self.session = session
        self.keys: NDArray[np.generic] = caches[0]
        self.input_ids: Ids = np.zeros((rows, new), dtype=np.int64)
        self.position_ids: Ids = np.zeros((rows, new), dtype=np.int64)
        self.logit_positions: Ids = np.zeros((rows, positions), dtype=np.int64)
        self.lengths: Lengths = np.zeros(rows, dtype=np.int32)
        self.logits: Floats = np.zeros((rows, SHAPE.vocab_size), dtype=np.float32)

    def run(self) -> None:
        if self.session.broken:
            raise MemoryError("no memory left")
        for row, length in enumerate(self.lengths):
            start = self.position_ids[row, 0]
            self.keys[row, 0, start:length, 0] = self.input_ids[row, : length - start]
            seen = self.keys[row, 0, :length, 0].astype(np.int64)
            best = int((seen * np.arange(1, length + 1)).sum()) % SHAPE.vocab_size
            self.logits[row] = -np.abs(np.arange(SHAPE.vocab_size) - best)
            if seen[0] == CURSED and length % 7 == 0:
                self.logits[row, 3] = np.nan

    def scores(self) -> Scores:
        every = np.broadcast_to(np.arange(SHAPE.vocab_size), self.logits.shape)
        order = np.lexsort((every, -self.logits))
        return Scores(
            np.take_along_axis(self.logits, order, axis=1), order, HostLogits(self.logits)
        )

    def all_logits(self) -> Floats:
        return np.repeat(self.logits[:, None], self.logit_positions.shape[1], axis=1)

    def log_normalisers(self) -> NDArray[np.float64]:
        return log_normalisers(self.all_logits())

    def all_candidates(self) -> tuple[Floats, Ids]:
        scores = self.scores()
        return scores.candidates[:, None], scores.ids[:, None]


class FakeSession:
    """Makes fake plans.

    Attributes:
        broken: Every call fails.
        planned: Rows and new tokens of every call that computed prompts.
    """

    shape = SHAPE
    kernels = "fake"
    prompt_tokens = 40
    call_tokens = 100

    def __init__(self) -> None:
        self.broken = False
        self.planned: list[tuple[int, int]] = []

    def new_cache(self) -> CpuCache:
        return CpuCache(self)

    def plan(
        self, caches: Sequence[NDArray[np.generic]], rows: int, new: int, positions: int
    ) -> FakePlan:
        self.planned.append((rows, new))
        return FakePlan(self, caches, rows, new, positions)

    def decode_plans(self, caches: Sequence[NDArray[np.generic]]) -> Callable[[int], FakePlan]:
        return lambda rows: FakePlan(self, caches, rows, 1)


class Letters:
    """Spells token 0 as a, 1 as b, and so on; from 100 on, token 100 + n is the byte n."""

    def token_text(self, token: int) -> str | bytes:
        return bytes([token - 100]) if token >= 100 else chr(97 + token)


def make_group(prompt: list[int], **settings: Unpack[Settings]) -> SequenceGroup:
    config = GenerationConfig(**settings)
    return SequenceGroup(
        np.array(prompt, dtype=np.int64),
        config,
        eos=(),
        context=SHAPE.context,
        tokenizer=Letters(),
        stop=config.stop,
    )


def run(engine: Engine, groups: list[SequenceGroup], steps: int = 5000) -> int:
    """Run to the end; return how many sequences ran at once."""
    for group in groups:
        engine.add(group)
    most = 0
    for _ in range(steps):
        if engine.idle:
            return most
        engine.step()
        most = max(most, len(engine.batch))
    raise AssertionError("the engine does not come to an end")


def token_ids(group: SequenceGroup) -> list[list[int]]:
    """What a group's sequences became; raises what it failed with."""
    if group.error is not None:
        raise group.error
    assert group.done
    return [sequence.token_ids for _, sequence in sorted(group.finished.items())]


def expected_ids(prompt: list[int], count: int) -> list[int]:
    """What the fake model says greedily after a prompt."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int((np.array(ids) * np.arange(1, len(ids) + 1)).sum()) % SHAPE.vocab_size)
    return ids[len(prompt) :]


def searched(prompt: list[int], **settings: Unpack[Settings]) -> list[list[int]]:
    """What the fake model's beams find when they are alone."""
    group = make_group(prompt, **settings)
    run(Engine(FakeSession(), max_rows=4), [group])
    return token_ids(group)
