"""The callable for Ray Data, called as Ray calls it: with dicts of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpt2ja_onnx import GenerationConfig, GPT2Ja
from gpt2ja_onnx.errors import BatchError
from gpt2ja_serve.batch.seeds import row_seed
from gpt2ja_serve.batch.worker import BatchWorker

if TYPE_CHECKING:
    from pathlib import Path


def test_texts_do_not_depend_on_batches(bundles: dict[str, Path]) -> None:
    count = 20
    batch = {
        "prompt": np.array([f"第{i}の寺は、" for i in range(count)], dtype=object),
        "id": np.arange(count),
        "stop": np.array([np.array(["。"], dtype=object)] * count + [None], dtype=object)[:-1],
        "when": np.arange(count).astype("datetime64[ns]"),
        "text": np.arange(count, dtype=np.float32),
    }
    settings = {"max_new_tokens": 5, "num_return_sequences": 2, "logprobs": 1}
    worker = BatchWorker(str(bundles["int8"]), seed=3, settings=settings)
    whole = worker(batch)
    halves = [worker({name: v[s] for name, v in batch.items()}) for s in np.s_[:7, 7:]]
    assert whole["text"] == halves[0]["text"] + halves[1]["text"]
    assert whole["id"] == [i for i in range(count) for _ in range(2)]
    assert whole["when"].dtype == "datetime64[ns]"
    assert whole["input_text"].tolist() == whole["id"]
    assert set(whole["logprobs"][0][0]["best"][0]) == {"id", "logprob"}
    with GPT2Ja.load(bundles["int8"]) as model:
        config = GenerationConfig(do_sample=True, stop=["。"]).override(settings)
        results = model.generate("第4の寺は、", config, seed=row_seed(3, id=4, position=0))
    assert [result.text for result in results] == whole["text"][8:10]


def test_rows_that_cannot_be_seeded_or_read_say_so(bundles: dict[str, Path]) -> None:
    worker = BatchWorker(str(bundles["int8"]), seed=3, settings={"max_new_tokens": 2})
    batch = {
        "prompt": np.array(["寺は", "寺は", "", None], dtype=object),
        "id": np.array([None, None, "a", "b"], dtype=object),
        "seed": np.array([None, 0, None, None], dtype=object),
    }
    assert worker(batch)["error"] == [
        "has neither an id nor a seed",
        None,
        "the prompt is empty; give at least one character",
        "has no 'prompt'",
    ]
    assert worker({"text": np.array(["寺は"], dtype=object)})["error"] == [
        "has neither an id nor a seed"
    ]
    with pytest.raises(BatchError, match="fingerprint"):
        BatchWorker(str(bundles["int8"]), seed=3, fingerprint="another")
