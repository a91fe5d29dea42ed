"""``make demo``: the demo checkpoint exported, and run beside PyTorch.

Both engines get the same prompt, settings, threads and length; the end token is suppressed so that
the lengths are equal. Timed is the call alone, the better of two, after one that warms up.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.bundle.demo import demo_checkpoint
from gpt2ja_onnx.device.threads import available_threads

if TYPE_CHECKING:
    from collections.abc import Callable

PROMPT = "近年の機械学習は"
SEQUENCES = 3
TOKENS = 40
SETTINGS: dict[str, Any] = {
    "do_sample": True,
    "top_p": 0.95,
    "top_k": 50,
    "num_return_sequences": SEQUENCES,
    "max_new_tokens": TOKENS,
    "min_new_tokens": TOKENS,
}


def main() -> None:
    """Export, generate with both engines, and print texts and speeds."""
    threads = available_threads()
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "bundle"
        export_bundle(
            str(demo_checkpoint()),
            output,
            ExportSettings(precision="int8"),
            report=lambda step: print(f"{step} …"),
        )
        with GPT2Ja.load(output, threads=threads) as model:
            ours = _show("gpt2ja-onnx, int8", lambda: _generate_ours(model))
    theirs = _show("transformers + PyTorch, fp32", _torch_generator(threads))
    print(f"\ngpt2ja-onnx was {ours / theirs:.1f} times as fast, with {threads} threads")


def _generate_ours(model: GPT2Ja) -> list[str]:
    results = model.generate(
        PROMPT,
        **SETTINGS,
    )
    return [result.prompt + result.text for result in results]


def _torch_generator(threads: int) -> Callable[[], list[str]]:
    import torch
    from transformers import AutoTokenizer, GPT2LMHeadModel

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(demo_checkpoint())
    model = GPT2LMHeadModel.from_pretrained(demo_checkpoint(), dtype=torch.float32).eval()
    ids = tokenizer.encode(PROMPT, return_tensors="pt")

    def generate() -> list[str]:
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            **SETTINGS,
            pad_token_id=0,
        )
        texts: list[str] = tokenizer.batch_decode(output, skip_special_tokens=True)
        return texts

    return generate


def _show(name: str, generate: Callable[[], list[str]]) -> float:
    """Print the texts of an engine; return its tokens per second."""
    generate()
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        texts = generate()
        seconds.append(time.perf_counter() - started)
    speed = SEQUENCES * TOKENS / min(seconds)
    print(f"\n{name}: {speed:.0f} tokens a second")
    for text in texts:
        print(f"  {text}")
    return speed


if __name__ == "__main__":
    main()
