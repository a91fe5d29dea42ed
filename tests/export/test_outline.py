"""Groups of nodes become calls of functions, all of them or the export fails."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_export.convert_precision import convert_precision
from gpt2ja_export.graph_editor import GraphEditor
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.device.cpu.native import OPERATORS
from gpt2ja_onnx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import onnx_ir as ir


def test_the_manifest_counts_the_calls(bundles: dict[str, Path]) -> None:
    model = onnx.load(bundles["int8"] / names.MODEL_FILE, load_external_data=False)
    calls = [node for node in model.graph.node if node.domain == names.OPERATOR_DOMAIN]
    found = Counter(node.op_type for node in calls)
    assert found == read_manifest(bundles["int8"]).quantization[OPERATORS]
    assert {function.name for function in model.functions} == set(found)
    # What is left finds its inputs: which rows to give logits for.
    assert len(model.graph.node) - len(calls) < 10
    plain = onnx.load(bundles["fp32"] / names.MODEL_FILE, load_external_data=False)
    assert not plain.functions
    assert OPERATORS not in read_manifest(bundles["fp32"]).quantization


def lose_a_gelu(editor: GraphEditor) -> None:
    """One layer's activation is no group's any more."""
    node = editor.nodes("FastGelu")[0]
    shifted = editor.insert(node, "Neg", [node.inputs[0]])
    node.replace_input_with(0, shifted)


def negate_logits(editor: GraphEditor) -> None:
    """The candidates are those of other scores than the graph gives."""
    logits = editor.output(names.LOGITS)
    negated = editor.append("Neg", [logits])
    negated.type, negated.shape = logits.type, logits.shape
    logits.name, negated.name = "before", names.LOGITS
    editor.graph.outputs[editor.graph.outputs.index(logits)] = negated


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose_a_gelu, r"'NormLinearGelu': 1.* were found, expected .*'NormLinearGelu': 2"),
        (negate_logits, r"an operator would read \S+ beside its inputs"),
    ],
)
def test_a_group_that_is_not_found_fails_the_export(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[GraphEditor], None],
    message: str,
) -> None:
    def convert_and_break(model: ir.Model, *others: Any) -> dict[str, Any]:
        found = convert_precision(model, *others)
        change(GraphEditor(model.graph))
        model.graph.sort()
        return found

    monkeypatch.setattr("gpt2ja_export.convert_precision.convert_precision", convert_and_break)
    with pytest.raises(ExportError, match=message):
        export_bundle(str(checkpoint), tmp_path / "out", ExportSettings(verify=False))
    assert not (tmp_path / "out").exists()
