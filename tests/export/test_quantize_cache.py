"""A cache of int8: what it takes, and what it costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_export.rows import logits_at_once
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.device.cpu.session import CpuSession
from gpt2ja_onnx.errors import ExportError
from tests.conftest import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import GPT2LMHeadModel

IDS = np.random.default_rng(3).integers(6, VOCABULARY, 100)


def divergence(bundle: Path, reference: GPT2LMHeadModel) -> float:
    """Mean KL divergence from PyTorch, in nats a position."""
    session = CpuSession(bundle, read_manifest(bundle), threads=2)
    with torch.inference_mode():
        found = torch.from_numpy(logits_at_once(session, [IDS])[0]).log_softmax(-1)
        right = reference(torch.from_numpy(IDS)[None]).logits[0].log_softmax(-1)
    return float((right.exp() * (right - found)).sum(-1).mean())


def with_outliers(directory: Path, size: float) -> GPT2LMHeadModel:
    """The checkpoint with one channel of keys a head that is `size` everywhere."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(directory).eval()
    width = model.config.n_embd
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.bias[width :: model.config.n_embd // model.config.n_head][
                : model.config.n_head
            ] = size
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize(
    ("precision", "limit", "bytes_a_number"),
    [
        ("fp32", 0, 4),
        ("int8", math.inf, 1),
        ("int8", -1, 2),
        ("int4", math.inf, 1),
        ("int4", -1, 2),
    ],
)
def test_a_cache_takes_a_quarter_or_half(
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Any,
    limit: float,
    bytes_a_number: int,
) -> None:
    for name in ("_CACHE_LIMIT", "_INT4_CACHE_LIMIT"):
        monkeypatch.setattr(f"gpt2ja_export.choose_bits.{name}", limit)
    source = make_checkpoint(1, 64, 2)
    settings = ExportSettings(precision=precision, verify=False)
    manifest = export_bundle(str(source), tmp_path / "out", settings)
    cache = CpuSession(tmp_path / "out", manifest, threads=1).new_cache()
    cache.reserve(3, 64, 0)
    assert cache.nbytes == 2 * 3 * 64 * 64 * bytes_a_number
    kinds = {
        value.dtype
        for value in ir.load(tmp_path / "out" / "model.onnx").graph.inputs
        if value.name is not None and value.name.startswith("past.")
    }
    assert kinds == {ir.DataType.FLOAT if bytes_a_number == 4 else ir.DataType.INT8}
    assert read_manifest(tmp_path / "out").shape == manifest.shape


def test_channels_of_large_keys_cost_the_others_nothing(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """With one scale for keys as they are, the second figure is twelve times the first."""
    source = make_checkpoint(2, 64, 2)
    settings = ExportSettings(precision="int8", verify=False)
    lost = []
    for size in (0.0, 40.0):
        reference = with_outliers(source, size)
        export_bundle(str(source), tmp_path / "out", settings, force=True)
        lost.append(divergence(tmp_path / "out", reference))
    assert lost[1] < 2 * lost[0] < 0.01


def test_a_layer_without_attention(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    source = make_checkpoint(2, 64, 2)
    reference = GPT2LMHeadModel.from_pretrained(source).eval()
    torch.nn.init.zeros_(reference.transformer.h[1].attn.c_attn.weight)
    torch.nn.init.zeros_(reference.transformer.h[1].attn.c_attn.bias)
    reference.save_pretrained(source)
    export_bundle(str(source), tmp_path / "out", ExportSettings(verify=False))
    assert divergence(tmp_path / "out", reference) < 0.01


def test_an_unusable_calibration_text(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    output = tmp_path / "out"
    for name, message in (
        ("empty.txt", "the calibration text has no tokens"),
        ("missing.txt", "missing.txt: cannot be read as UTF-8 text"),
    ):
        settings = ExportSettings(calibration_text=tmp_path / name, verify=False)
        with pytest.raises(ExportError, match=message):
            export_bundle(str(checkpoint), output, settings)
        assert not output.exists()
