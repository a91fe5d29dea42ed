"""Choosing the next token: transformers' settings in its order and with its tie rules, in numpy.

A step usually sees only the best candidates of each row, which the graph has sorted. They are
enough when no token outside of them can be kept; a row whose settings ask for more is handled on
all of its scores. Both go through the same processors and warpers.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_onnx.errors import GenerationError
from gpt2ja_onnx.sampling.best_tokens import best_of_all, best_of_candidates, process
from gpt2ja_onnx.sampling.nucleus import Nucleus, fits
from gpt2ja_onnx.sampling.warpers import Warpers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpt2ja_kernels import Kernels
    from gpt2ja_onnx.device.base import Floats, Ids, Scores
    from gpt2ja_onnx.sampling.state import SamplerState

    Choice = int | GenerationError


# Tokens of a row that are looked for among the candidates; more are taken to be there.
_MOST_WATCHED = 8


class Sampler:
    """Chooses the tokens of a batch, whose rows are mostly those of the step before."""

    def __init__(self) -> None:
        self._batch = _Batch([], 0, 0)

    def choose(self, scores: Scores, states: Sequence[SamplerState]) -> list[Choice]:
        """Choose one token for every row.

        Args:
            scores: Of every row; those of the whole vocabulary are read only where needed.
            states: One a row.

        Returns:
            A token id a row, or the error of a row: no token is left, or its own processors
            failed. Nothing that one row asks for reaches another.
        """
        batch = self._batch
        sizes = (scores.ids.shape[1], scores.logits.vocab_size)
        if batch.sizes != sizes or batch.states != states:
            batch = self._batch = _Batch(list(states), *sizes)
        uniform = batch.draw_numbers()
        with np.errstate(all="ignore"):
            try:
                return _choose(scores, batch, uniform)
            except Exception:
                return [
                    _choose_alone(scores.take([row]), state, uniform[row : row + 1])
                    for row, state in enumerate(states)
                ]


class _Batch:
    """What is the same in every step of these rows: a step costs little beside the graph's.

    Args:
        states: One a row.
        candidates: Scores that a row comes with.
        vocab_size: Scores that it has.
    """

    def __init__(self, states: list[SamplerState], candidates: int, vocab_size: int) -> None:
        self.states = states
        self.sizes = (candidates, vocab_size)
        self.complete = candidates == vocab_size
        self.drawn = [row for row, state in enumerate(states) if state.config.do_sample]
        self.warpers = Warpers([states[row] for row in self.drawn])
        self.unbounded: list[int] = []
        if not self.complete:
            self.unbounded = [row for row, state in enumerate(states) if fits(state.config)]
        self._processed: list[int] = []  # rows with processors that any token may fall to
        watched: list[tuple[int, int]] = []  # rows and tokens whose scores alone may fall
        for row, state in enumerate(states):
            tokens = state.processed_tokens
            if tokens is None or len(tokens) > _MOST_WATCHED:
                self._processed.append(row)
            else:
                watched += [(row, token) for token in tokens]
        self._watching = np.array(watched, dtype=np.int64).reshape(-1, 2)
        self._rows = np.arange(len(states))
        kept = np.array([state.kept_at_most for state in states], dtype=np.int64)
        bounded = (kept > 0) & (kept < candidates)
        self._edge = np.where(bounded, kept - 1, candidates - 1)

    def draw_numbers(self) -> NDArray[np.float64]:
        """A number from the stream of every row that draws, shape (rows,)."""
        if len(self.drawn) == len(self.states):
            return np.array([state.random.random() for state in self.states])
        numbers = np.zeros(len(self.states))
        numbers[self.drawn] = [self.states[row].random.random() for row in self.drawn]
        return numbers

    def allowed_alone(self, rows: list[int]) -> dict[int, NDArray[np.uint8]]:
        """What is allowed to those of `rows` that have a constraint alone, and bounded choice."""
        found = {}
        for row in rows:
            state = self.states[row]
            if (
                state.constraint is not None
                and row not in self.unbounded
                and len(state.active) == 1
            ):
                with contextlib.suppress(GenerationError):  # it fails again, with its own row
                    found[row] = state.constraint.allowed()
        return found

    def keep_enough(self, rows: list[int], scores: Floats) -> list[int]:
        """Those of `rows` of sorted scores that nothing behind them can be kept beside."""
        edge, end = self._edge.tolist(), scores.shape[1] - 1
        last = {row: scores.item(row, end) for row in rows}
        return [
            row for row in rows if scores.item(row, edge[row]) > last[row] or last[row] == -np.inf
        ]

    def not_as_they_are(self, scores: Floats, ids: Ids) -> list[int]:
        """Rows whose candidates some processor changes, or may not be enough."""
        rows = {row for row in self._processed if self.states[row].active}
        if len(self._watching):
            watchers, tokens = self._watching.T
            seen = (ids[watchers] == tokens[:, None]).any(axis=1)
            if seen.any():
                rows.update(row for row in watchers[seen].tolist() if self.states[row].active)
        if not self.complete:
            # What ties with the last candidate may go on outside.
            enough = scores[self._rows, self._edge] > scores[:, -1]
            if not enough.all():
                rows.update(np.flatnonzero(~enough).tolist())
        return sorted(rows)


def _choose(scores: Scores, batch: _Batch, uniform: NDArray[np.float64]) -> list[Choice]:
    best, ids, native = scores.candidates, scores.ids, scores.logits.native
    alone: dict[int, Choice] = {}
    unbounded: list[int] = []
    rows = batch.not_as_they_are(best, ids)
    found_natively: list[int] = []
    if native is not None and (allowed := batch.allowed_alone(rows)):
        best, ids = best.copy(), ids.copy()
        native.best_allowed(scores.logits.read(), [*allowed.values()], best, ids, [*allowed])
        found_natively = batch.keep_enough([*allowed], best)
    for row in rows:
        if row in found_natively:
            continue
        state = batch.states[row]
        if row in batch.unbounded:
            unbounded.append(row)
            continue
        try:
            found = best_of_candidates(
                scores.candidates[row], scores.ids[row], state, complete=batch.complete
            )
            if found is None:
                few, few_ids = best_of_all(scores.logits.row(row), state, native)
                if state.constraint is not None and len(few) <= best.shape[1]:
                    found = _padded(few, few_ids, best.shape[1])
            if found is None:
                one = _Batch([state], 0, 0)
                alone[row] = _finish(few[None], few_ids[None], one, uniform[row : row + 1], native)[
                    0
                ]
                continue
        except GenerationError as error:
            alone[row] = error
            continue
        if best is scores.candidates:
            best, ids = best.copy(), ids.copy()
        best[row], ids[row] = found
    if unbounded:
        alone |= _draw_unbounded(scores, batch.states, unbounded, uniform)
    if not alone:
        return _finish(best, ids, batch, uniform, native)
    others = [row for row in range(len(best)) if row not in alone]
    if others:
        rest = _Batch([batch.states[row] for row in others], 0, 0)
        alone |= zip(
            others, _finish(best[others], ids[others], rest, uniform[others], native), strict=True
        )
    return [alone[row] for row in range(len(best))]


def _padded(scores: Floats, ids: Ids, width: int) -> tuple[Floats, Ids]:
    """A row as wide as the candidates, so that sums over it do not depend on other rows."""
    wide, wide_ids = np.full(width, -np.inf, dtype=np.float32), np.zeros(width, dtype=np.int64)
    wide[: len(scores)], wide_ids[: len(ids)] = scores, ids
    return wide, wide_ids


def _choose_alone(scores: Scores, state: SamplerState, uniform: NDArray[np.float64]) -> Choice:
    batch = _Batch([state], scores.ids.shape[1], scores.logits.vocab_size)
    try:
        return _choose(scores, batch, uniform)[0]
    except Exception as error:
        failure = GenerationError(f"sampling failed: {str(error) or type(error).__name__}")
        failure.__cause__ = error
        return failure


def _draw_unbounded(
    scores: Scores, states: list[SamplerState], rows: list[int], uniform: NDArray[np.float64]
) -> dict[int, Choice]:
    """Draw for rows that keep as many tokens as it takes."""
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
    tokens = nucleus.draw(best, some.ids, logits, uniform[rows])
    return chosen | dict(zip(rows, tokens.tolist(), strict=True))


def _finish(
    scores: Floats,
    ids: Ids,
    batch: _Batch,
    uniform: NDArray[np.float64],
    native: Kernels | None,
) -> list[Choice]:
    """Choose from scores that are sorted downwards, equal ones by rising id."""
    chosen: list[Choice] = ids[:, 0].tolist()
    nothing = scores[:, 0] == -np.inf
    if nothing.any():
        scores = np.where(nothing[:, None], np.float32(0), scores)
    drawn = batch.drawn
    if drawn:
        if len(drawn) < len(chosen):
            scores, ids, uniform = scores[drawn], ids[drawn], uniform[drawn]
        tokens = batch.warpers.draw(scores, ids, uniform, native)
        for row, token in zip(drawn, tokens.tolist(), strict=True):
            chosen[row] = token
    for row in np.flatnonzero(nothing).tolist():
        chosen[row] = _nothing_left()
    return chosen


def _nothing_left() -> GenerationError:
    return GenerationError("the settings leave no token that could follow")
