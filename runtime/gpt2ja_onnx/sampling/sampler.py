"""Choosing the next token: transformers' settings in its order and with its tie rules, in numpy.

A step usually sees only the best candidates of each row, which the graph has sorted. They are
enough when no token outside of them can be kept; a row whose settings ask for more is handled on
all of its scores. Both go through the same processors and warpers.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.errors import GenerationError
from gpt2ja_onnx.sampling.best_tokens import best_of_all, best_of_candidates, process
from gpt2ja_onnx.sampling.candidates import Candidates
from gpt2ja_onnx.sampling.native import LEFT, NativeChoices
from gpt2ja_onnx.sampling.nucleus import Nucleus
from gpt2ja_onnx.sampling.warpers import Warpers, draw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt2ja_kernels import Kernels
    from gpt2ja_onnx.device.base import Floats, Ids, Scores
    from gpt2ja_onnx.sampling.state import SamplerState

    Choice = int | GenerationError


class Sampler:
    """Chooses the tokens of a batch, whose rows are mostly those of the step before."""

    def __init__(self) -> None:
        self._batch = _Batch([], 0, 0, None)

    def choose(self, scores: Scores, states: Sequence[SamplerState]) -> list[Choice]:
        """Choose one token for every row.

        Args:
            scores: Of every row; those of the whole vocabulary are read only where needed.
            states: One a row.

        Returns:
            A token id a row, or the error of a row: its scores are broken, no token is left, or
            its own processors failed. Nothing that one row asks for reaches another.
        """
        logits, batch = scores.logits, self._batch
        given = (scores.ids.shape[1], logits.vocab_size, logits.native)
        if batch.states != states or batch.given != given:
            batch = self._batch = _Batch(list(states), *given)
        batch.draw_numbers()
        if batch.natively is None:
            return _choose_each(scores, batch)
        tokens: list[Choice] = [*batch.natively.choose(scores, batch.uniform)]
        left = [row for row, token in enumerate(tokens) if token == LEFT]
        if left:
            few = scores if len(left) == len(tokens) else scores.take(left)
            for row, choice in zip(left, _choose_each(few, batch.part(left)), strict=True):
                tokens[row] = choice
        return tokens

    def forget(self) -> None:
        """Keep nothing of the last step."""
        self._batch = _Batch([], 0, 0, None)


class _Batch:
    """What is the same in every step of these rows: a step costs little beside the graph's.

    Args:
        states: One a row.
        count: Candidates of a row.
        vocab_size: Scores of a row.
        native: The native operators, where they have made the scores.

    Attributes:
        given: All but the states.
        uniform: A number of this step's for every row that draws, shape (rows,).
    """

    def __init__(
        self, states: list[SamplerState], count: int, vocab_size: int, native: Kernels | None
    ) -> None:
        self.states = states
        self.given = (count, vocab_size, native)
        self.uniform = np.zeros(len(states))
        self.drawn = [row for row, state in enumerate(states) if state.config.do_sample]
        self._parts: dict[tuple[int, ...], _Batch] = {}

    @functools.cached_property
    def candidates(self) -> Candidates:
        """Which rows are drawn from their candidates as they are."""
        count, vocab_size, _ = self.given
        return Candidates(self.states, count, vocab_size)

    @functools.cached_property
    def natively(self) -> NativeChoices | None:
        """What the native operators choose by."""
        _, vocab_size, native = self.given
        if native is None:
            return None
        return NativeChoices(native, self.states, self.candidates, vocab_size)

    @functools.cached_property
    def warpers(self) -> Warpers:
        """Of the rows that draw."""
        return Warpers([self.states[row] for row in self.drawn])

    def draw_numbers(self) -> None:
        """Take the numbers of a step."""
        for row in self.drawn:
            self.uniform[row] = self.states[row].random.random()

    def part(self, rows: list[int]) -> _Batch:
        """Some of the rows, with the numbers of this step; kept for the next one."""
        if len(rows) == len(self.states):
            return self
        part = self._parts.get(tuple(rows))
        if part is None:
            if len(self._parts) > len(self.states):
                self._parts.clear()
            part = _Batch([self.states[row] for row in rows], *self.given)
            self._parts[tuple(rows)] = part
        part.uniform[:] = self.uniform[rows]
        return part


def _choose_each(scores: Scores, batch: _Batch) -> list[Choice]:
    with np.errstate(all="ignore"):
        try:
            return _choose(scores, batch)
        except Exception:
            rows = range(len(batch.states))
            return [_choose_alone(scores.take([row]), batch.part([row])) for row in rows]


def _choose_alone(scores: Scores, batch: _Batch) -> Choice:
    try:
        return _choose(scores, batch)[0]
    except Exception as error:
        failure = GenerationError(f"sampling failed: {str(error) or type(error).__name__}")
        failure.__cause__ = error
        return failure


def _choose(scores: Scores, batch: _Batch) -> list[Choice]:
    best, ids, candidates = scores.candidates, scores.ids, batch.candidates
    alone: dict[int, Choice] = {}
    unbounded: list[int] = []
    finite = scores.finite()
    for row in candidates.not_as_they_are(best, ids):
        state = batch.states[row]
        if not finite[row]:
            continue
        if row in candidates.unbounded:
            unbounded.append(row)
            continue
        try:
            found = best_of_candidates(
                scores.candidates[row], scores.ids[row], state, complete=candidates.complete
            )
            if found is None:
                few, few_ids = best_of_all(scores.logits.row(row), state, scores.logits.native)
                if state.constraint is not None and len(few) <= best.shape[1]:
                    found = _padded(few, few_ids, best.shape[1])
            if found is None:
                (alone[row],) = _finish(few[None], few_ids[None], batch.part([row]))
                continue
        except GenerationError as error:
            alone[row] = error
            continue
        if best is scores.candidates:
            best, ids = best.copy(), ids.copy()
        best[row], ids[row] = found
    alone |= {row: broken_scores() for row, whole in enumerate(finite) if not whole}
    if unbounded:
        alone |= _draw_unbounded(scores, batch, unbounded)
    if not alone:
        return _finish(best, ids, batch)
    others = [row for row in range(len(best)) if row not in alone]
    if others:
        rest = _finish(best[others], ids[others], batch.part(others))
        alone |= zip(others, rest, strict=True)
    return [alone[row] for row in range(len(best))]


def _padded(scores: Floats, ids: Ids, width: int) -> tuple[Floats, Ids]:
    """A row as wide as the candidates, so that sums over it do not depend on other rows."""
    wide, wide_ids = np.full(width, -np.inf, dtype=np.float32), np.zeros(width, dtype=np.int64)
    wide[: len(scores)], wide_ids[: len(ids)] = scores, ids
    return wide, wide_ids


def _draw_unbounded(scores: Scores, batch: _Batch, rows: list[int]) -> dict[int, Choice]:
    """Draw for rows that keep as many tokens as it takes."""
    states = batch.states
    chosen: dict[int, Choice] = {}
    processed: dict[int, Floats] = {}
    every = np.arange(scores.logits.vocab_size, dtype=np.int64)
    for row in rows:
        if states[row].active:
            changed = scores.logits.row(row).copy()
            try:
                process(changed, every, states[row])
            except GenerationError as error:
                chosen[row] = error
                continue
            if changed.max() == -np.inf:
                chosen[row] = _nothing_left()
            else:
                processed[row] = changed
    rows = [row for row in rows if row not in chosen]
    if not rows:
        return chosen
    some = scores if len(rows) == len(scores) else scores.take(rows)
    logits, best = some.logits.read(), some.candidates
    if processed:
        logits, best = logits.copy(), best.copy()
        for place, row in enumerate(rows):
            if row in processed:
                logits[place] = processed[row]
                best[place] = np.nan
    nucleus = Nucleus([states[row] for row in rows], some.logits.native)
    tokens = nucleus.draw(best, some.ids, logits, batch.uniform[rows])
    return chosen | dict(zip(rows, tokens.tolist(), strict=True))


def _finish(scores: Floats, ids: Ids, batch: _Batch) -> list[Choice]:
    """Choose from scores that are sorted downwards, equal ones by rising id."""
    if batch.natively is None:
        return _draw(scores, ids, batch)
    tokens: list[Choice] = [*batch.natively.choose_from(scores, ids, batch.uniform)]
    left = [row for row, token in enumerate(tokens) if token == LEFT]
    if left:
        chosen = _draw(scores[left], ids[left], batch.part(left))
        for row, choice in zip(left, chosen, strict=True):
            tokens[row] = choice
    return tokens


def _draw(scores: Floats, ids: Ids, batch: _Batch) -> list[Choice]:
    """As `_finish`, in numpy alone."""
    chosen: list[Choice] = ids[:, 0].tolist()
    nothing = scores[:, 0] == -np.inf
    if nothing.any():
        scores = np.where(nothing[:, None], np.float32(0), scores)
    drawn = batch.drawn
    if drawn:
        warped = batch.warpers.apply(scores[drawn].copy(), ids[drawn])
        for row, token in zip(drawn, draw(*warped, batch.uniform[drawn]).tolist(), strict=True):
            chosen[row] = token
    for row in np.flatnonzero(nothing).tolist():
        chosen[row] = _nothing_left()
    return chosen


def _nothing_left() -> GenerationError:
    return GenerationError("the settings leave no token that could follow")


def broken_scores() -> GenerationError:
    """The error of a row whose state is broken."""
    return GenerationError("the model gave scores that are NaN or infinite")
