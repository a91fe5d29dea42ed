"""Checkpoints to bundles: shapes, precisions, proof, and inputs that cannot be used."""

from __future__ import annotations

import json
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import AutoTokenizer

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_export.fuse import fuse
from gpt2ja_export.verify import LIMITS
from gpt2ja_onnx import GPT2Ja, bundle
from gpt2ja_onnx.errors import BundleError, CheckpointError, ExportError, HubError, OutputError
from tests.tolerances import LOGITS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("layers", "width", "heads", "config"),
    [
        (1, 32, 1, {}),
        (3, 96, 3, {}),
        (12, 128, 4, {"initializer_range": 0.05}),
        (2, 64, 2, {"tie_word_embeddings": False}),
    ],
)
def test_every_shape_says_what_pytorch_says(
    make_checkpoint: Callable[..., Path], tmp_path: Path, layers: int, width: int, heads: int,
    config: dict[str, Any],
) -> None:  # fmt: skip
    source = make_checkpoint(layers, width, heads, **config)
    manifest = export_bundle(str(source), tmp_path / "out", ExportSettings(precision="fp32"))
    assert manifest.verification["max_logit_difference"] <= LOGITS["fp32"]
    assert manifest.verification["greedy_agreement"] == 1
    assert manifest.verification["batch_difference"] == 0
    assert manifest.fusions["attention"] == layers
    assert manifest.fusions["skip_norm"] == 2 * layers + 1


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_other_precisions_run_and_shrink(
    checkpoint: Path, bundles: dict[str, Path], tmp_path: Path, precision: bundle.Precision
) -> None:
    output = tmp_path / "out"
    # The limits are about trained weights; random ones lose more.
    settings = ExportSettings(precision=precision, verify=False)
    export_bundle(str(checkpoint), output, settings)
    weights = (output / "model.onnx.data").stat().st_size
    full = (bundles["fp32"] / "model.onnx.data").stat().st_size
    assert weights < {"fp16": 0.55, "int8": 0.4, "int4": 0.4}[precision] * full
    with GPT2Ja.load(output) as model:
        assert model.generate("朝の", max_new_tokens=5)[0].completion_tokens == 5


def test_embedding_and_head_are_stored_once(bundles: dict[str, Path]) -> None:
    for path in bundles.values():
        graph = ir.load(path / "model.onnx").graph
        vocabulary = [v for v in graph.initializers.values() if v.shape and 384 in v.shape.numpy()]
        assert sum(v.const_value is not None and v.const_value.size > 384 for v in vocabulary) == 1


def test_a_rewrite_that_did_not_happen_is_named(bundles: dict[str, Path]) -> None:
    graph = ir.load(bundles["fp32"] / "model.onnx")  # is fused already: nothing to find
    shape = bundle.read_manifest(bundles["fp32"]).shape
    with pytest.raises(ExportError, match="the rewrite 'linear' was made 0 times, expected 8"):
        fuse(graph, shape)


def test_over_a_limit_the_export_fails_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "fp32", LIMITS["fp32"].__class__(0.0, 0.01, same_greedy=True))
    with pytest.raises(ExportError, match="logits differ from PyTorch's by"):
        export_bundle(str(checkpoint), tmp_path / "out", ExportSettings(precision="fp32"))
    assert [*tmp_path.iterdir()] == []


def test_portable_is_optimums_own(checkpoint: Path, tmp_path: Path) -> None:
    from optimum.onnxruntime import ORTModelForCausalLM

    output = tmp_path / "out"
    export_bundle(str(checkpoint), output, ExportSettings(precision="fp32", graph="portable"))
    tokenizer = AutoTokenizer.from_pretrained(output)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ORTModelForCausalLM.from_pretrained(output)
        ids = tokenizer("朝の市場", return_tensors="pt", return_token_type_ids=False)
        generated = model.generate(**ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert generated.shape[1] == ids["input_ids"].shape[1] + 4


def test_auto_tokenizer_opens_the_bundle(bundles: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundles["int8"])
    assert type(tokenizer).__name__ == "BertGenerationTokenizer"
    with GPT2Ja.load(bundles["int8"]) as model:
        assert tokenizer.encode("朝の市場") == model.tokenizer.encode("朝の市場")


def test_the_published_layout(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """A pickle, no tokenizer class beside the tokenizer, sampling settings in config.json."""
    source = make_checkpoint(1, 32, 1, pickled=True)
    (source / "generation_config.json").unlink()
    config = json.loads((source / "config.json").read_text())
    config |= {"top_k": 50, "top_p": 0.95, "do_sample": True}
    (source / "config.json").write_text(json.dumps(config))
    (source / "tokenizer_config.json").write_text("{}")
    manifest = export_bundle(str(source), tmp_path / "out", ExportSettings(precision="fp32"))
    assert manifest.generation_defaults["top_p"] == 0.95
    assert manifest.generation_defaults["do_sample"] is True
    assert len(manifest.source.weights_sha256) == 64
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("朝の")
    with GPT2Ja.load(tmp_path / "out") as model:
        assert model.defaults.top_p == 0.95


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "broken")


def expect_failure(source: Path, kind: type[Exception], message: str) -> None:
    output = source.parent / "out"
    with pytest.raises(kind, match=message):
        export_bundle(str(source), output, ExportSettings(precision="fp32"))
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_truncated_weights(broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    expect_failure(broken, CheckpointError, "the weights cannot be read")


def test_weights_that_are_not_finite(broken: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(broken / "model.safetensors")
    tensors["transformer.ln_f.weight"][3] = torch.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    expect_failure(broken, CheckpointError, "ln_f.weight has NaN or infinite values")


def test_not_a_gpt2(broken: Path) -> None:
    (broken / "config.json").write_text('{"model_type": "bert"}')
    expect_failure(broken, CheckpointError, "is a 'bert' model, not a 'gpt2'")


def test_missing_parts(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    expect_failure(broken, CheckpointError, "has neither model.safetensors nor pytorch_model.bin")
    (broken / "config.json").unlink()
    expect_failure(broken, CheckpointError, "has no readable config.json")


def test_a_tokenizer_that_does_not_fit(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"vocab_size": 1000}))
    expect_failure(broken, CheckpointError, "the tokenizer has 384 pieces, the model 1000")


def test_an_output_that_exists(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    with pytest.raises(OutputError, match="exists already; use --force"):
        export_bundle(str(checkpoint), tmp_path, ExportSettings())
    assert (tmp_path / "kept").read_text() == "kept"


def test_an_unreachable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="the hub cannot be reached"):
        export_bundle("someone/some-model", tmp_path / "out", ExportSettings())
    assert [*tmp_path.iterdir()] == []


def test_precisions_that_a_device_cannot_run() -> None:
    with pytest.raises(ExportError, match="--device cuda runs fp16 and bf16, not int8"):
        ExportSettings(precision="int8", device="cuda")
    with pytest.raises(ExportError, match="bf16 runs on CUDA only; add --device cuda"):
        ExportSettings(precision="bf16")


# Operators with kernels for fp16 and bf16 in onnxruntime-gpu 1.31 that a captured graph replays
# faithfully; GatherND and whatever computes shapes are not among them.
CUDA_OPERATORS = {
    "Add", "Cast", "FastGelu", "FusedMatMul", "Gather", "GroupQueryAttention", "MatMul",
    "ReduceSum", "Reshape", "SkipLayerNormalization", "TopK",
}  # fmt: skip


def test_a_graph_for_cuda_is_whole_on_the_gpu(checkpoint: Path, cuda_bundle: Path) -> None:
    graph = ir.load(cuda_bundle / "model.onnx").graph
    assert {node.op_type for node in graph} == CUDA_OPERATORS
    assert [value.name for value in graph.outputs][:3] == [
        "logits", "candidate_scores", "candidate_ids",
    ]  # fmt: skip
    assert "logit_sums" in {value.name for value in graph.outputs}
    moves = ir.load(cuda_bundle / "cache.onnx").graph
    assert [node.op_type for node in moves] == ["Gather", "Expand", "ScatterElements"]
    (cuda_bundle / "cache.onnx").rename(cuda_bundle / "moved")
    try:
        with pytest.raises(BundleError, match=r"cache\.onnx: the file is missing"):
            bundle.read_manifest(cuda_bundle)
    finally:
        (cuda_bundle / "moved").rename(cuda_bundle / "cache.onnx")


def test_bf16_is_fp16_in_another_type(
    checkpoint: Path, cuda_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    monkeypatch.setattr("gpt2ja_onnx.device.cuda_problem", lambda: "there is no GPU")
    output = tmp_path / "bf16"
    settings = ExportSettings(precision="bf16", device="cuda")
    manifest = export_bundle(str(checkpoint), output, settings, report=steps.append)
    assert "not verified: there is no GPU" in steps
    assert (manifest.shape.cache_dtype, manifest.verification) == ("bfloat16", {})
    graph, half = (ir.load(path / "model.onnx").graph for path in (output, cuda_bundle))
    assert [node.op_type for node in graph] == [node.op_type for node in half]
    for one, other in zip(graph.inputs, half.inputs, strict=True):
        if other.dtype == ir.DataType.FLOAT16:
            assert one.dtype == ir.DataType.BFLOAT16
    for name, value in half.initializers.items():
        assert value.const_value is not None
        mine = graph.initializers[name].const_value
        assert mine is not None
        if value.const_value.dtype == ir.DataType.FLOAT16:
            assert mine.dtype == ir.DataType.BFLOAT16
            weights = value.const_value.numpy().astype(np.float32)
            np.testing.assert_allclose(mine.numpy().astype(np.float32), weights, rtol=2**-8,
                                       atol=1e-6)  # fmt: skip


def test_rows_are_bit_identical_alone_and_among_others(model: GPT2Ja) -> None:
    from gpt2ja_export.verify import _logits

    prompts = [np.arange(6, 6 + length) for length in (1, 2, 5, 17, 40)]
    together = _logits(model._session, prompts)
    for prompt, expected in zip(prompts, together, strict=True):
        np.testing.assert_array_equal(_logits(model._session, [prompt])[0], expected)
