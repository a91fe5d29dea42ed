"""The running sequences and their rows of the cache: the first rows, always."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2ja_onnx.constraints.constraint import Constraint
    from gpt2ja_onnx.device.base import Cache
    from gpt2ja_onnx.engine.sequence import Search, Sequence
    from gpt2ja_onnx.sampling.beam_search import Move


class Batch:
    """Row i of the cache belongs to `running[i]`, so that free rows cost nothing.

    Args:
        cache: The rows.

    Attributes:
        cache: The rows.
        running: The sequences that have a row, by row.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.running: list[Sequence] = []

    @property
    def constraints(self) -> list[Constraint]:
        """Those of the running sequences that have one."""
        found = (sequence.state.constraint for sequence in self.running)
        return [constraint for constraint in found if constraint is not None]

    def __len__(self) -> int:
        return len(self.running)

    def compact(self) -> bool:
        """Give the rows of ended sequences to the last ones; whether there were any."""
        if not any(s.finish_reason is not None or s.group.done for s in self.running):
            return False
        for row in range(len(self.running) - 1, -1, -1):
            sequence = self.running[row]
            if not sequence.ended:
                continue
            last = self.running[-1]
            if last is not sequence:
                self.cache.copy(len(self.running) - 1, row, last.length)
                self.running[row] = last
            self.running.pop()
            _leave(sequence)
        return True

    def enter(self, sequences: list[Sequence]) -> None:
        """Give the next rows to the sequences of one unit."""
        self.running += sequences
        sequences[0].group.running += 1

    def reorder(self, search: Search, moves: list[Move]) -> None:
        """Copy the rows of beams that go on from another beam's text, some at once."""
        row = {beam: self.running.index(s) for beam, s in enumerate(search.sequences)}
        length = search.sequences[0].length - 1
        for start in sorted({move.start for move in moves}):
            alike = [move for move in moves if move.start == start]
            sources = [row[move.source] for move in alike]
            targets = [row[move.target] for move in alike]
            self.cache.copy_rows(sources, targets, length, start)

    def drop_from(self, row: int) -> list[Sequence]:
        """Take the rows from `row` on away from their sequences, which are returned."""
        dropped = self.running[row:]
        del self.running[row:]
        for sequence in dropped:
            _leave(sequence)
        return dropped


def _leave(sequence: Sequence) -> None:
    """Count a unit that has no row any more; a search by its first beam."""
    if sequence.index == 0 or sequence.search is None:
        sequence.group.running -= 1
