"""Masks of the next step, found in a thread beside the graph's run."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from gpt2ja_onnx.errors import GenerationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import ThreadPoolExecutor

    from gpt2ja_onnx.constraints.constraint import Constraint


class Masks:
    """Finds masks in one thread, which starts with the first of them.

    llguidance and onnxruntime release the GIL, so neither waits for the other.

    Args:
        spare: Whether the graph leaves the processor free, so that the thread takes nothing from
            it. Otherwise masks that are quickly made are left to who asks for them.
    """

    def __init__(self, *, spare: bool) -> None:
        self._spare = spare
        self._thread: ThreadPoolExecutor | None = None

    @contextlib.contextmanager
    def found_beside(self, constraints: Iterable[Constraint]) -> Iterator[None]:
        """Find the masks that are missing while the block runs."""
        wanted = [
            constraint
            for constraint in constraints
            if not constraint.masked and (self._spare or not constraint.quick)
        ]
        if not wanted:
            yield
            return
        if self._thread is None:
            from concurrent.futures import ThreadPoolExecutor  # brings logging, 3 to 7 ms

            self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpt2ja-onnx-masks")
        found = self._thread.submit(_find, wanted)
        try:
            yield
        finally:
            found.result()

    def close(self) -> None:
        """End the thread, until a mask is wanted again."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def _find(constraints: list[Constraint]) -> None:
    for constraint in constraints:
        # One that fails has no mask; it is looked for again, and fails, with its own request.
        with contextlib.suppress(GenerationError):
            constraint.mask_next()
