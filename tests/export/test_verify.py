"""Graphs that are broken on purpose are refused, by the figures that show it."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_export.graph_editor import GraphEditor, constant
from gpt2ja_export.limits import LIMITS, check
from gpt2ja_export.outline_operators import outline_operators
from gpt2ja_export.verify import Verification, wrong_candidates
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.bundle.demo import demo_checkpoint
from gpt2ja_onnx.device.base import HostLogits, Scores
from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gpt2ja_export.calibration import Place
    from gpt2ja_export.choose_bits import Form
    from gpt2ja_onnx.bundle.manifest import ModelShape, Precision

CANDIDATES = (names.CANDIDATE_SCORES, names.CANDIDATE_IDS)


def numbers(editor: GraphEditor, name: str, *values: float, kind: type = np.int64) -> ir.Value:
    return editor.store(name, np.array(values, dtype=kind))


def set_output(editor: GraphEditor, name: str, value: ir.Value) -> None:
    old = editor.output(name)
    old.name, value.name, value.type, value.shape = f"right.{name}", name, old.type, old.shape
    editor.graph.outputs[editor.graph.outputs.index(old)] = value


def add_to_logits(editor: GraphEditor, addend: Callable[[ir.Value], ir.Value]) -> None:
    """Add to the logits, and so to the candidates, what is made of them."""
    logits = editor.output(names.LOGITS)
    uses = [*logits.uses()]
    changed = editor.append("Add", [logits, addend(logits)])
    for node, index in uses:
        node.replace_input_with(index, changed)
    set_output(editor, names.LOGITS, changed)


# --- ways to break a graph ---


def leak(editor: GraphEditor, shape: ModelShape) -> None:
    """Every position sees the token that it predicts, where it is in the same call."""
    ids = editor.input(names.INPUT_IDS)
    size = editor.append("Shape", [ids], [ir.AttrInt64("start", 1)])
    last = editor.append("Sub", [size, numbers(editor, "one", 1)])
    after = editor.append("Add", [editor.input(names.LOGIT_POSITIONS), numbers(editor, "one", 1)])
    seen = editor.append(
        "GatherElements", [ids, editor.append("Min", [after, last])], [ir.AttrInt64("axis", 1)]
    )
    values = numbers(editor, "values", 0, 20, kind=np.float32)
    bonus = editor.append("OneHot", [seen, numbers(editor, "depth", shape.vocab_size), values])
    add_to_logits(editor, lambda logits: bonus)


def mix_rows(editor: GraphEditor, shape: ModelShape) -> None:
    """Every row takes on a millionth of its neighbours."""
    axis, part = numbers(editor, "axis", 0), numbers(editor, "part", 1e-6, kind=np.float32)
    add_to_logits(
        editor,
        lambda logits: editor.append("Mul", [editor.append("ReduceMean", [logits, axis]), part]),
    )


def shift_lengths(editor: GraphEditor, shape: ModelShape) -> None:
    """The attention takes every row for one token shorter."""
    for node in editor.nodes("Attention"):
        one, none = (numbers(editor, f"n{n}", n, kind=np.int32) for n in (1, 0))
        less = editor.insert(node, "Sub", [node.inputs[3], one])
        node.replace_input_with(3, editor.insert(node, "Max", [less, none]))


def scale_a_layer(editor: GraphEditor, shape: ModelShape) -> None:
    weights = editor.nodes("NormLinearGelu")[1].inputs[1]  # of the norm
    assert weights is not None
    weights.const_value = ir.tensor(2 * constant(weights), name=weights.name)


def swap_candidates(editor: GraphEditor, shape: ModelShape) -> None:
    """The second best token of every row changes places with the third."""
    order = numbers(editor, "order", 0, 2, 1, *range(3, shape.candidates))
    for name in CANDIDATES:
        output = editor.output(name)
        swapped = editor.append("Gather", [output, order], [ir.AttrInt64("axis", 2)])
        set_output(editor, name, swapped)


def shift_ids(editor: GraphEditor, shape: ModelShape) -> None:
    """Every candidate is called by the id of the token before it."""
    ids = editor.output(names.CANDIDATE_IDS)
    before = editor.append("Sub", [ids, numbers(editor, "one", 1)])
    set_output(editor, names.CANDIDATE_IDS, before)


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            leak,
            [
                r"cached_difference is \d\d\S* \(at most 1\)",
                r"top_agreement is 0\.[0-4]\d* \(at least 0\.85\)",
                r"kl_divergence is \d\S* \(at most 0\.02\)",
                r"perplexity_change_percent is -9\d(\.\d)? \(at most 1\)",
            ],
        ),
        (mix_rows, [r"batch_difference is \S+e-0[5-9] \(at most 0\)"]),
        (shift_lengths, [r"cached_difference is \d\S* \(at most 1\)"]),
        (scale_a_layer, [r"kl_divergence is 0\.\d+ \(at most 0\.02\)"]),
        (swap_candidates, [r"wrong_candidates is \d+ \(at most 0\)"]),
        (shift_ids, [r"wrong_candidates is \d+ \(at most 0\)"]),
    ],
)
def test_a_broken_graph_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[GraphEditor, ModelShape], None],
    messages: list[str],
) -> None:
    def outline_and_break(
        model: ir.Model, shape: ModelShape, forms: Mapping[Place, Form]
    ) -> dict[str, int]:
        found = outline_operators(model, shape, forms)
        change(GraphEditor(model.graph), shape)
        model.graph.sort()
        return found

    # Behind the operators, so that native ones compute the broken graph too.
    monkeypatch.setattr("gpt2ja_export.outline_operators.outline_operators", outline_and_break)
    with pytest.raises(ExportError, match="in int8 the bundle differs too much") as raised:
        export_bundle(str(demo_checkpoint()), tmp_path / "out", ExportSettings())
    for message in messages:
        assert re.search(message, str(raised.value))
    assert [*tmp_path.iterdir()] == []


FIGURES = Verification(
    max_logit_difference=0.0, mean_logit_difference=0.0, cached_difference=0.0,
    batch_difference=0.0, wrong_candidates=0, greedy_tokens=64, greedy_agreement=1.0,
    top_agreement=1.0, kl_divergence=0.0, perplexity=60.0, reference_perplexity=60.0,
    perplexity_change_percent=0.0, text_tokens=500,
)  # fmt: skip


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cached_difference", 80.0), ("batch_difference", 80.0), ("kl_divergence", 6.0),
        ("kl_divergence", math.nan), ("top_agreement", 0.02), ("top_agreement", math.nan),
        ("perplexity_change_percent", -98.0), ("perplexity_change_percent", 98.0),
        ("perplexity_change_percent", math.inf), ("wrong_candidates", 1),
    ],
)  # fmt: skip
def test_every_precision_has_limits(precision: Precision, name: str, value: float) -> None:
    check(FIGURES, precision)
    with pytest.raises(ExportError, match=f"in {precision} .*: {name} is "):
        check(Verification(**dataclasses.asdict(FIGURES) | {name: value}), precision)


def test_every_figure_over_its_limit_is_named() -> None:
    figures = dataclasses.replace(FIGURES, kl_divergence=6.0, top_agreement=0.02)
    with pytest.raises(ExportError) as raised:
        check(figures, "int8")
    assert str(raised.value) == (
        "in int8 the bundle differs too much from PyTorch: top_agreement is 0.02 (at least 0.85), "
        "kl_divergence is 6 (at most 0.02); choose another --precision, or --no-verify to look "
        "into it"
    )


@pytest.mark.parametrize(
    ("candidates", "ids", "wrong"),
    [
        ([3, 2, 2], [1, 0, 3], 0),
        ([3, 2, 2], [1, 0, 4], 0),  # 0, 3 and 4 are equal: which two is open
        ([3, 2, 2], [1, 3, 0], 1),
        ([3, 2, 2], [1, 0, 0], 1),
        ([3, 2, 2], [1, 0, 2], 1),
        ([3, 2, 1], [1, 0, 2], 1),
        ([2, 3, 2], [0, 1, 3], 1),
        ([3, 2, 2], [1, 0, 5], 1),
        ([3, 2, 2], [1, 0, -1], 1),
        ([3, np.nan, 2], [1, 0, 3], 1),
    ],
)
def test_candidates_are_the_sorted_best(
    candidates: list[float], ids: list[int], wrong: int
) -> None:
    logits = np.array([[2, 3, 1, 2, 2]], dtype=np.float32)
    scores = np.array([candidates], dtype=np.float32)
    assert wrong_candidates(Scores(scores, np.array([ids]), HostLogits(logits))) == wrong
