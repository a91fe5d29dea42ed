"""One token for every running sequence: the step that is repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2ja_onnx.device.base import Scores
    from gpt2ja_onnx.engine.batch import Batch


def decode(batch: Batch) -> Scores:
    """Run the graph on the last token of every running sequence.

    Returns:
        The scores of their next tokens, good until the next call.
    """
    plan = batch.cache.decode_plan(len(batch))
    for row, sequence in enumerate(batch.running):
        length = sequence.length
        plan.input_ids[row, 0] = sequence.state.history[-1]
        plan.position_ids[row, 0] = length - 1
        plan.lengths[row] = length
    plan.run()
    return plan.scores()
