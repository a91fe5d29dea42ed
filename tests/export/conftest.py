"""What several tests of the export read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpt2ja_export.calibration import cut_to_windows
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.bundle.demo import demo_bundle, demo_checkpoint
from tests.conftest import SAMPLE

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GPT2LMHeadModel


@pytest.fixture(scope="session")
def demo() -> tuple[GPT2LMHeadModel, Tensor]:
    """The demo model, whose loss is that of trained weights, and a text."""
    from transformers import GPT2LMHeadModel

    model: GPT2LMHeadModel = GPT2LMHeadModel.from_pretrained(demo_checkpoint()).eval()
    with GPT2Ja.load(demo_bundle()) as engine:
        ids = engine.tokenizer.encode(SAMPLE.read_text())
    return model, cut_to_windows(ids[:512], 512)
