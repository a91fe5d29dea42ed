"""Checkpoints to bundles: shapes, precisions, proof, and inputs that cannot be used."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_export.limits import LIMITS
from gpt2ja_export.rows import logits_at_once
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.bundle.demo import demo_checkpoint
from gpt2ja_onnx.bundle.manifest import Precision, read_manifest
from gpt2ja_onnx.device.choice import cuda_problem
from gpt2ja_onnx.errors import BundleError, ExportError
from tests.tolerances import LOGITS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpt2ja_onnx.device.cpu.session import CpuSession


@pytest.mark.parametrize(
    ("layers", "width", "heads", "config"),
    [
        (1, 32, 1, {}),
        (3, 96, 3, {}),
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


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_other_precisions_run_and_shrink(
    checkpoint: Path, bundles: dict[str, Path], tmp_path: Path, precision: Precision
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


def test_over_a_limit_the_export_fails_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = dataclasses.replace(LIMITS["fp32"], max_logit_difference=0.0)
    monkeypatch.setitem(LIMITS, "fp32", limits)
    with pytest.raises(ExportError, match=r"max_logit_difference is \S+ \(at most 0\)"):
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


def test_a_tokenizer_without_a_dummy_prefix(
    make_checkpoint: Callable[..., Path], tokenizer_without_prefix: Path, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint()
    shutil.copytree(tokenizer_without_prefix, checkpoint, dirs_exist_ok=True)
    export_bundle(str(checkpoint), tmp_path / "out", ExportSettings(precision="fp32"))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = GPT2LMHeadModel.from_pretrained(checkpoint).eval()
    with GPT2Ja.load(tmp_path / "out") as model:
        for prompt in ("朝の市場には、", " 朝の市場", "朝 の", "Hello 世界"):
            ids = model.tokenizer.encode(prompt)
            assert ids == theirs.encode(prompt)
            assert model.tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
            given = torch.tensor([ids])
            rows = network.generate(given, max_new_tokens=16, do_sample=False, pad_token_id=0)
            (result,) = model.generate(prompt, max_new_tokens=16, do_sample=False)
            assert result.token_ids == rows[0, len(ids) :].tolist()
            chunks = model.stream(prompt, max_new_tokens=16, do_sample=False)
            assert "".join(chunk.text for chunk in chunks) == result.text
        # The first piece of a text is the one that it is within a text.
        sentences = ["朝の市場には、", "店が並ぶ。"]
        parts = [token for sentence in sentences for token in model.tokenizer.encode(sentence)]
        assert model.tokenizer.piece_text(parts) == "".join(sentences)


@pytest.mark.parametrize(
    ("changes", "tokenizer"),
    [
        ({}, {}),
        (
            {
                "transformers_version": "4.10.0",
                "scale_attn_weights": True,
                "torch_dtype": "float32",
            },
            {"tokenizer_class": "BertGenerationTokenizer", "tokenizer_file": None},
        ),
    ],
    ids=["20210301.1.0", "20210820.1.0"],
)
def test_the_published_layouts(
    make_checkpoint: Callable[..., Path], tmp_path: Path,
    changes: dict[str, object], tokenizer: dict[str, object],
) -> None:  # fmt: skip
    """A pickle, settings in a config.json of old keys, and a tokenizer with or without a class."""
    source = make_checkpoint(1, 32, 1, pickled=True)
    (source / "generation_config.json").unlink()
    config = json.loads((source / "config.json").read_text())
    for name in [name for name in config if name.startswith(("scale_", "reorder_", "dtype"))]:
        del config[name]
    config |= {"top_k": 50, "top_p": 0.95, "do_sample": True, "gradient_checkpointing": False}
    (source / "config.json").write_text(json.dumps(config | changes))
    (source / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    manifest = export_bundle(str(source), tmp_path / "out", ExportSettings(precision="fp32"))
    assert manifest.generation_defaults["top_p"] == 0.95
    assert manifest.generation_defaults["do_sample"] is True
    assert len(manifest.source.weights_sha256) == 64
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("朝の")
    with GPT2Ja.load(tmp_path / "out") as model:
        assert model.defaults.top_p == 0.95


def test_settings_that_do_nothing_are_kept(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_checkpoint(1, 32, 1)
    (source / "generation_config.json").write_text('{"top_p": 0.9}')  # without do_sample
    settings = ExportSettings(precision="fp32", verify=False)
    manifest = export_bundle(str(source), tmp_path / "out", settings)
    assert manifest.generation_defaults == {"top_p": 0.9}
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["top_p"] == 0.9


@pytest.mark.parametrize(
    "settings",
    [
        ExportSettings(precision="fp32"),
        ExportSettings(precision="int8", verify=False),
        ExportSettings(precision="fp32", graph="portable", verify=False),
    ],
)
def test_every_step_is_reported_once(
    make_checkpoint: Callable[..., Path], tmp_path: Path, settings: ExportSettings
) -> None:
    steps: list[str] = []
    source = make_checkpoint(1, 32, 1)
    export_bundle(str(source), tmp_path / "out", settings, report=steps.append)
    assert tuple(steps) == settings.steps


# Operators with kernels for fp16 and bf16 in onnxruntime-gpu 1.31 that a captured graph replays
# faithfully; GatherND and whatever computes shapes are not among them.
CUDA_OPERATORS = {
    "Add", "Cast", "FastGelu", "FusedMatMul", "Gather", "GroupQueryAttention", "MatMul",
    "ReduceSum", "Reshape", "SkipLayerNormalization", "TopK",
}  # fmt: skip


@pytest.mark.skipif(cuda_problem() is None, reason="here a GPU verifies all of it")
def test_what_only_a_gpu_can_verify_is_named(tmp_path: Path) -> None:
    settings = ExportSettings(precision="fp16", device="cuda")
    export_bundle(str(demo_checkpoint()), tmp_path / "bundle", settings)
    figures = read_manifest(tmp_path / "bundle").verification
    assert figures["not_verified"].startswith("CUDA's kernels")
    assert abs(figures["perplexity_change_percent"]) < 0.1


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
            read_manifest(cuda_bundle)
    finally:
        (cuda_bundle / "moved").rename(cuda_bundle / "cache.onnx")


def test_bf16_is_fp16_in_another_type(
    checkpoint: Path, cuda_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "bf16"
    monkeypatch.setattr("gpt2ja_export.pipeline.cuda_problem", lambda: "there is no GPU")
    with pytest.raises(ExportError, match="add --no-verify, or mend this: there is no GPU"):
        export_bundle(str(checkpoint), output, ExportSettings(precision="bf16", device="cuda"))
    settings = ExportSettings(precision="bf16", device="cuda", verify=False)
    manifest = export_bundle(str(checkpoint), output, settings)
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


def test_rows_are_bit_identical_alone_and_among_others(session: CpuSession) -> None:
    prompts = [np.arange(6, 6 + length) for length in (1, 2, 5, 17, 40)]
    together = logits_at_once(session, prompts)
    for prompt, expected in zip(prompts, together, strict=True):
        np.testing.assert_array_equal(logits_at_once(session, [prompt])[0], expected)
