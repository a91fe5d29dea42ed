"""Run by a test in a process of its own: prints its memory in KiB and its objects, by and by."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

from gpt2ja_onnx import GenerationConfig, GPT2Ja

PROMPTS = [
    "朝の市場",
    "図",
    "この町の鉄道は、大正時代に",
    "彼は大学を卒業したあと、",
    "水は零度で凍り",
]


def resident() -> int:
    """Resident memory of this process in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def run(model: GPT2Ja, requests: int, longest: int) -> None:
    """Requests of many lengths, some of which stop early."""
    items = (
        (
            PROMPTS[index % 5],
            GenerationConfig(
                do_sample=True, seed=index, max_new_tokens=1 + index % longest, stop=("の",)
            ),
        )
        for index in range(requests)
    )
    assert sum(isinstance(outcome, list) for outcome in model.generate_many(items)) == requests


with GPT2Ja.load(sys.argv[1]) as model:
    run(model, 200, longest=60)  # fills and drains the batch, so that every row count occurred
    run(model, 4000, longest=4)
    for _ in range(20):
        run(model, 500, longest=4)
        gc.collect()
        print(resident(), len(gc.get_objects()))
