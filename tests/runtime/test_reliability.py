"""What must hold under load, at the edges, and when something breaks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_onnx import GenerationConfig, GPT2Ja
from gpt2ja_onnx.device.cpu.cache import CpuCache
from gpt2ja_onnx.device.cpu.plan import CpuPlan
from gpt2ja_onnx.errors import CancelledError, ClosedError, GenerationError, PromptError

if TYPE_CHECKING:
    from collections.abc import Callable

PROMPTS = [
    "朝の市場",
    "図",
    "この町の鉄道は、大正時代に石炭を運ぶために敷かれた。",
    "彼は大学を卒業したあと、",
    "水は零度で凍り、百度で沸騰するが、気圧が変わると沸点も変わる。地球は太陽のまわりを",
]
SAMPLED = GenerationConfig(do_sample=True, top_k=20, top_p=0.9, max_new_tokens=24, seed=7)


def test_the_end_of_a_context_of_1024(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Greedy ids up to the last position are those of transformers; the next one is refused."""
    from transformers import GPT2LMHeadModel

    source = make_checkpoint(2, 64, 2, n_positions=1024)
    reference = GPT2LMHeadModel.from_pretrained(source).eval()
    export_bundle(str(source), tmp_path / "out", ExportSettings(precision="fp32", verify=False))
    ids = np.random.default_rng(0).integers(6, 384, 1025)
    with GPT2Ja.load(tmp_path / "out") as model:
        expected = reference.generate(
            torch.from_numpy(ids[None, :1015]), max_new_tokens=9, do_sample=False, pad_token_id=0,
            attention_mask=torch.ones((1, 1015), dtype=torch.int64),
        )  # fmt: skip
        found = model.generate_ids(ids[:1015], max_new_tokens=50, do_sample=False)
        np.testing.assert_array_equal(found, expected.numpy())

        config = GenerationConfig(max_new_tokens=5)
        lengths = [1023, 1024, 1025, 20]
        outcomes = list(model.generate_many((ids[:n].tolist(), config) for n in lengths))
        refused = outcomes.pop(2)
        assert isinstance(refused, PromptError)
        assert "has 1025 tokens, the context is 1024" in str(refused)
        results = [outcome[0] for outcome in outcomes if isinstance(outcome, list)]
        assert [(r.completion_tokens, r.finish_reason) for r in results] == [
            (1, "context"), (0, "context"), (5, "length"),
        ]  # fmt: skip
        with torch.inference_mode():
            last = reference(torch.from_numpy(ids[None, :1023])).logits[0, -1].argmax()
        assert results[0].token_ids == [int(last)]


def test_nothing_to_do(model: GPT2Ja) -> None:
    assert model.generate([]) == []
    assert list(model.generate_many([])) == []
    assert model.score([]) == []
    assert model.generate_ids(np.zeros((0, 5), dtype=np.int64)).shape == (0, 0)


def test_memory_stays_flat_over_ten_thousand_requests(bundles: dict[str, Path]) -> None:
    soak = Path(__file__).with_name("soak.py")
    done = subprocess.run(
        [sys.executable, soak, bundles["int8"]], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    looks = np.array(done.stdout.split(), dtype=float).reshape(-1, 2)
    first, last = (np.median(half, axis=0) for half in np.array_split(looks, 2))
    # Objects tell a leak of ours exactly. Of the memory, what malloc keeps varies by one percent.
    assert last[1] <= first[1] + 100
    assert last[0] <= 1.02 * first[0]


def test_many_threads_on_one_model(model: GPT2Ja) -> None:
    """64 threads generate, stream, score and cancel at once; each gets its own results."""
    expected = [result.text for result in model.generate(PROMPTS, SAMPLED)]
    scores = [score.logprob for score in model.score(PROMPTS)]
    right: dict[int, bool] = {}

    def work(index: int) -> None:
        prompt = index % 5
        if index % 4 == 0:
            found = model.generate(PROMPTS[prompt], SAMPLED)[0].text
        elif index % 4 == 1:
            found = "".join(chunk.text for chunk in model.stream(PROMPTS[prompt], SAMPLED))
        elif index % 4 == 2:
            right[index] = model.score(PROMPTS[prompt])[0].logprob == scores[prompt]
            return
        else:
            request = model.submit(PROMPTS[prompt], SAMPLED, max_new_tokens=90)
            request.cancel()
            with pytest.raises(CancelledError):
                request.result()
            found = model.generate(PROMPTS[prompt], SAMPLED)[0].text
        right[index] = found == expected[prompt]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == dict.fromkeys(range(64), True)


def test_closing_drains_and_then_refuses(bundles: dict[str, Path]) -> None:
    model = GPT2Ja.load(bundles["int8"])
    handle = model.submit(PROMPTS[0], SAMPLED, min_new_tokens=24)
    model.close()
    assert len(handle.result()[0].token_ids) == 24
    with pytest.raises(ClosedError):
        model.generate(PROMPTS[0])
    model.close()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_scores_fail_their_request_alone(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """A row whose cache is broken fails; the rows beside it go on untouched."""
    with GPT2Ja.load(bundles["fp32"]) as model:
        expected = model.generate(PROMPTS[1], SAMPLED)[0].token_ids
        run = CpuPlan.run

        def poisoned(plan: CpuPlan) -> None:
            if len(plan.lengths) == 2:
                cache = model._worker._engine.batch.cache
                assert isinstance(cache, CpuCache)
                cache.parts[1][0, :, 0] = value
            run(plan)

        monkeypatch.setattr(CpuPlan, "run", poisoned)
        outcomes = list(model.generate_many((p, SAMPLED) for p in PROMPTS[:2]))
        failed = [o for o in outcomes if isinstance(o, GenerationError)]
        assert len(failed) == 1
        assert "NaN or infinite" in str(failed[0])
        (fine,) = [o for o in outcomes if isinstance(o, list)]
        monkeypatch.undo()
        alone = model.generate(fine[0].prompt, SAMPLED)[0].token_ids
        assert fine[0].token_ids == alone
        assert model.generate(PROMPTS[1], SAMPLED)[0].token_ids == expected


def test_an_engine_that_fails_tells_everyone_and_goes_on(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with GPT2Ja.load(bundles["fp32"]) as model:

        def broken(plan: CpuPlan) -> None:
            raise MemoryError("no memory left")

        with monkeypatch.context() as patch:
            patch.setattr(CpuPlan, "run", broken)
            with pytest.raises(GenerationError, match="no memory left"):
                model.generate(PROMPTS, SAMPLED)
        assert len(model.generate(PROMPTS, SAMPLED)) == 5
