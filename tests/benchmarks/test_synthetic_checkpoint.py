"""The stand-in for the published checkpoint has its layout, and is the same every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import AutoTokenizer, GPT2LMHeadModel

from gpt2ja_bench.making.synthetic_checkpoint import make_checkpoint
from gpt2ja_bench.running.shape import Shape
from gpt2ja_export.checkpoint import open_checkpoint
from gpt2ja_onnx.bundle.demo import demo_bundle
from gpt2ja_onnx.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "近年の機械学習は、京都で盛んだ。"


def test_a_checkpoint_that_everything_opens(tmp_path: Path) -> None:
    shape = Shape(layers=1, width=32, heads=2, context=64, vocab_size=8100)
    make_checkpoint(tmp_path / "one", shape)
    make_checkpoint(tmp_path / "two", shape)
    one, two = open_checkpoint(str(tmp_path / "one")), open_checkpoint(str(tmp_path / "two"))
    assert one.source.weights_sha256 == two.source.weights_sha256
    assert GPT2LMHeadModel.from_pretrained(one.path).config.n_positions == 64

    demo = Tokenizer(demo_bundle() / "spiece.model")
    padded = Tokenizer(one.path / "spiece.model")
    assert padded.vocab_size == 8100
    assert padded.encode(TEXT) == demo.encode(TEXT)
    assert AutoTokenizer.from_pretrained(one.path).encode(TEXT) == demo.encode(TEXT)
    assert padded.encode("<unused8050>").count(8050) == 0
