"""Decoding on a device says what the CPU says, in buckets of rows and by captured graphs.

Every test runs on the CPU with the code of CUDA, and on a GPU where there is one.
"""

from __future__ import annotations

import gc
import re
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_export.verify import _logits
from gpt2ja_onnx import GPT2Ja, Request
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.device import graph_file
from gpt2ja_onnx.device.cpu.session import CpuSession
from gpt2ja_onnx.device.cuda.memory import Packed
from gpt2ja_onnx.device.cuda.session import CudaSession
from gpt2ja_onnx.device.cuda.step import Step, _order_ties
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.engine.group import SequenceGroup
from gpt2ja_onnx.errors import GenerationError
from gpt2ja_onnx.text.tokenizer import Tokenizer
from tests.fake_cuda import TestedSession
from tests.tolerances import LOGITS, LOGPROB, assert_near

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gpt2ja_onnx import GenerationResult
    from gpt2ja_onnx.device.cuda.cache import CudaCache
    from gpt2ja_onnx.device.providers import ort

PROMPTS = ["朝の市場には、", "彼は", "図", "朝の市場には、新しい野菜が並ぶ。彼は", "夜の"]
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 40, "suppress_tokens": [3]}


@pytest.fixture(scope="module", params=["fake", pytest.param("gpu", marks=pytest.mark.gpu)])
def real(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "gpu")


@pytest.fixture
def make(real: bool, cuda_bundle: Path) -> Iterator[Callable[..., tuple[GPT2Ja, TestedSession]]]:
    """A function that loads a model and gives its session too."""
    opened: list[GPT2Ja] = []

    def load(batch_size: int = 8, **options: Any) -> tuple[GPT2Ja, TestedSession]:
        manifest = read_manifest(cuda_bundle)
        session = TestedSession(cuda_bundle, manifest, real=real, **options)
        tokenizer = Tokenizer(cuda_bundle / names.TOKENIZER_FILE)
        opened.append(GPT2Ja(manifest, tokenizer, session, device="cuda", batch_size=batch_size))
        return opened[-1], session

    yield load
    for model in opened:
        model.close()


@pytest.fixture(scope="module")
def reference(cuda_bundle: Path) -> Iterator[GPT2Ja]:
    with GPT2Ja.load(cuda_bundle, device="cpu") as model:
        yield model


@pytest.fixture
def check(real: bool, reference: GPT2Ja, cuda_bundle: Path) -> Callable[..., None]:
    """A function that holds results against the CPU's.

    The same code on the CPU gives the same tokens. A GPU rounds differently: there each token
    that was taken greedily must be the best one for the CPU too, to the accuracy of fp16.
    """

    session = CpuSession(cuda_bundle, read_manifest(cuda_bundle), threads=2)

    def same(results: list[GenerationResult], prompts: str | list[str], **settings: Any) -> None:
        expected = reference.generate(prompts, **settings)
        for mine, theirs in zip(results, expected, strict=True):
            if not real:
                assert mine.token_ids == theirs.token_ids
            elif not settings["do_sample"] and "num_beams" not in settings:
                text = [*reference.tokenizer.encode(mine.prompt), *mine.token_ids]
                (logits,) = _logits(session, [np.array(text)])
                logits[:, settings["suppress_tokens"]] = -np.inf
                places = np.arange(mine.prompt_tokens, len(text))
                chosen = logits[places - 1, np.array(text)[places]]
                assert (logits[places - 1].max(axis=1) - chosen).max() <= 2 * LOGITS["fp16"]

    return same


@pytest.mark.parametrize("graphs", [True, False])
def test_texts_are_those_of_the_cpu(make: Any, check: Any, graphs: bool) -> None:
    model, session = make(cuda_graphs=graphs)
    for settings in (
        GREEDY,
        {"do_sample": True, "top_p": 0.9, "seed": 3, "num_return_sequences": 3},
        {"do_sample": True, "top_k": 0, "seed": 4},
        {"do_sample": True, "seed": 5, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2},
        {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "top_k": 0, "seed": 6, "num_beams": 3},
    ):
        check(model.generate(PROMPTS, **settings), PROMPTS, **settings)
    assert bool(session.recorder.decoded) == graphs


def test_scores_and_logprobs_are_those_of_the_cpu(make: Any, reference: GPT2Ja) -> None:
    model, _ = make()
    texts = [*PROMPTS, "朝の市場には、新しい野菜が並ぶ。" * 30]
    found, expected = model.score(texts), reference.score(texts)
    tolerance = LOGITS["fp16"]
    for mine, theirs in zip(found, expected, strict=True):
        assert_near(mine.logprob / mine.tokens, theirs.logprob / theirs.tokens, tolerance)
    settings = GREEDY | {"logprobs": 2, "max_new_tokens": 3}
    for one, other in zip(
        model.generate(PROMPTS, **settings), reference.generate(PROMPTS, **settings), strict=True
    ):
        assert one.logprobs is not None
        assert other.logprobs is not None
        assert_near(one.logprobs[0].logprob, other.logprobs[0].logprob, tolerance)


def test_each_bucket_is_captured_once_at_its_second_run(make: Any) -> None:
    model, session = make()

    def decoded(rows: int) -> list[int]:
        """Ids of the graphs that a request of so many sequences, which start together, runs."""
        before = len(session.recorder.decoded)
        model.generate(PROMPTS[0], **GREEDY, num_return_sequences=rows)
        return list(session.recorder.decoded[before:])

    # 40 tokens: the prompt gives the first, a run before the capture the second.
    assert decoded(5) == [1] * 38
    assert decoded(1) == [2] * 38
    assert decoded(3) == [3] * 38
    assert decoded(6) == [1] * 39


def test_padding_changes_nothing(make: Any) -> None:
    _, session = make()
    results = []
    for rows in (3, 4):  # both run in the bucket of 4
        cache: CudaCache = session.new_cache()
        cache.reserve(4, 64, 0)
        prompt = cache.plan(0, 4, 5, 1)
        prompt.input_ids[:] = np.arange(20).reshape(4, 5) + 10
        prompt.position_ids[:] = np.arange(5)
        prompt.logit_positions[:] = 4
        prompt.lengths[:] = 5
        prompt.run()
        for step in range(4):
            plan = cache.decode_plan(rows)
            plan.input_ids[:, 0] = np.arange(rows) + 30 + step
            plan.position_ids[:, 0] = 5 + step
            plan.lengths[:] = 6 + step
            plan.run()
        assert [*cache.steps] == [4]
        results.append((plan.all_logits()[:3], plan.scores().ids[:3].copy()))
    for three, four in zip(*results, strict=True):
        np.testing.assert_array_equal(three, four)


def test_growth_drops_captured_graphs(make: Any, check: Any) -> None:
    model, session = make()
    short = GREEDY | {"max_new_tokens": 20, "num_return_sequences": 5}
    long = GREEDY | {"max_new_tokens": 100}
    model.generate(PROMPTS[0], **short)
    assert set(session.recorder.decoded) == {1}
    together = long | {"num_return_sequences": 5}
    check(model.generate(PROMPTS[0], **together), PROMPTS[0], **together)
    assert session.recorder.released == [1]
    assert set(session.recorder.decoded) == {1, 2}


def test_rows_that_are_running_go_on_when_the_cache_grows(make: Any, check: Any) -> None:
    model, session = make()
    engine = Engine(session, max_rows=8)
    lengths = (30, 100)  # in 64 positions, and in 128
    groups = [
        SequenceGroup(
            np.array(model.tokenizer.encode(prompt)),
            model.defaults.override(GREEDY | {"max_new_tokens": length}),
            eos=(),
            context=session.shape.context,
            tokenizer=model.tokenizer,
        )
        for prompt, length in zip(PROMPTS[:2], lengths, strict=True)
    ]
    engine.add(groups[0])
    for _ in range(5):
        engine.step()
    captured = session.recorder.decoded[-1]
    engine.add(groups[1])
    while not engine.idle:
        engine.step()
    assert session.recorder.released == [captured]
    for group, prompt, length in zip(groups, PROMPTS, lengths, strict=False):
        check(
            Request(group, prompt, 0, str).result(), [prompt], **GREEDY | {"max_new_tokens": length}
        )


def test_one_copy_each_way_a_step_and_logits_only_when_they_are_needed(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, session = make()
    counts = {"up": 0, "down": 0, "logits": 0}

    def counted(name: str, kind: type, method: str) -> None:
        original = getattr(kind, method)

        def call(self: Any) -> Any:
            counts[name] += 1
            return original(self)

        monkeypatch.setattr(kind, method, call)

    counted("up", Packed, "upload")
    counted("down", Packed, "download")
    counted("logits", Step, "read_logits")
    model.generate(PROMPTS[0], do_sample=True, top_k=20, seed=1, max_new_tokens=20)
    runs = len(session.recorder.ran)
    assert counts == {"up": runs, "down": runs, "logits": 0}
    model.generate(PROMPTS[0], do_sample=True, seed=1, max_new_tokens=3, logprobs=1)
    assert counts["logits"] > 0


def test_a_capture_that_fails_is_warned_of_once(make: Any, check: Any) -> None:
    model, session = make()
    session.recorder.broken = True
    with pytest.warns(RuntimeWarning, match="CUDA graphs are off.*not permitted") as warned:
        found = model.generate(PROMPTS, **GREEDY)
    assert len(warned) == 1
    for results in (found, model.generate(PROMPTS, **GREEDY)):
        check(results, PROMPTS, **GREEDY)
    assert not session.recorder.decoded  # the session that was opened without


def test_a_graph_that_cannot_be_captured_is_opened_without(make: Any, check: Any) -> None:
    with pytest.warns(RuntimeWarning, match="CUDA graphs are off.*not been partitioned") as warned:
        model, session = make(refuses_capture=True)
    assert len(warned) == 1
    check(model.generate(PROMPTS, **GREEDY), PROMPTS, **GREEDY)
    assert not session.recorder.decoded


def test_a_row_of_broken_logits_fails_alone(
    make: Any, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = make()
    download = Packed.download

    def poisoned(self: Packed) -> None:
        download(self)
        sums = self.arrays[names.LOGIT_SUMS]
        if len(sums) == 2:
            sums[0] = np.nan

    monkeypatch.setattr(Packed, "download", poisoned)
    config = model.defaults.override(GREEDY)
    outcomes = list(model.generate_many((prompt, config) for prompt in PROMPTS[:2]))
    (failed,) = [o for o in outcomes if isinstance(o, GenerationError)]
    assert "NaN or infinite" in str(failed)
    (fine,) = [o for o in outcomes if isinstance(o, list)]
    check(fine, [fine[0].prompt], **GREEDY)


def test_equal_scores_come_by_rising_id() -> None:
    scores = np.array([[[3, 2, 2, 2, 1]], [[5, 4, 3, 2, 1]]], dtype=np.float32)
    order = np.array([[[9, 7, 1, 4, 0]], [[4, 3, 2, 1, 0]]])
    _order_ties(scores, order)
    assert order.tolist() == [[[9, 1, 4, 7, 0]], [[4, 3, 2, 1, 0]]]


def test_texts_are_scored_while_others_are_generated(make: Any, check: Any) -> None:
    model, _ = make()
    scores: list[float] = []

    def score() -> None:
        scores.extend(model.score(PROMPTS[3])[0].logprob for _ in range(10))

    thread = threading.Thread(target=score)
    thread.start()
    check(model.generate(PROMPTS, **GREEDY), PROMPTS, **GREEDY)
    thread.join()
    assert_near(scores, [scores[0]] * 10, LOGPROB)


def test_the_cpu_runs_the_bundle_too(reference: GPT2Ja, fp32_model: GPT2Ja) -> None:
    assert reference.device == "cpu"
    difference = [
        mine.logprob / mine.tokens - theirs.logprob / theirs.tokens
        for mine, theirs in zip(reference.score(PROMPTS), fp32_model.score(PROMPTS), strict=True)
    ]
    assert_near(difference, 0, LOGITS["fp16"])


@pytest.mark.gpu
def test_bf16_is_near(checkpoint: Path, reference: GPT2Ja, tmp_path: Path) -> None:
    settings = ExportSettings(precision="bf16", device="cuda", verify=False)
    export_bundle(str(checkpoint), tmp_path / "bf16", settings)
    with GPT2Ja.load(tmp_path / "bf16", device="cuda") as model:
        found = [score.logprob / score.tokens for score in model.score(PROMPTS)]
        assert model.generate(PROMPTS[0], **GREEDY)[0].completion_tokens == 40
    expected = [score.logprob / score.tokens for score in reference.score(PROMPTS)]
    assert_near(found, expected, LOGITS["bf16"])


@pytest.mark.gpu
def test_every_node_runs_on_the_gpu(cuda_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session_options = graph_file.session_options

    def recording(threads: int) -> ort.SessionOptions:
        options = session_options(threads)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return options

    monkeypatch.setattr("gpt2ja_onnx.device.cuda.session.session_options", recording)
    session = CudaSession(cuda_bundle, read_manifest(cuda_bundle), threads=1)
    for opened in (session._session, session._mover._session):
        groups = opened.get_provider_graph_assignment_info()
        assert {group.ep_name for group in groups} == {"CUDAExecutionProvider"}


# --- memory of the device ---


def test_steps_of_prompts_are_freed(make: Any) -> None:
    model, _ = make()
    for index in range(30):
        model.generate(PROMPTS[index % 5], **GREEDY | {"max_new_tokens": 2})
    gc.collect()
    steps = [thing for thing in gc.get_objects() if type(thing) is Step]
    # Those that decode, by bucket, and those whose scores the next prompt may still need.
    assert len(steps) <= 4


def test_decoding_steps_let_go_of_the_old_memory_before_there_is_new(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, session = make()
    cache: CudaCache = session.new_cache()
    cache.reserve(2, 64, 0)
    cache.decode_plan(2)
    bound: list[int] = []
    empty = session.memory.empty

    def looking(words: int) -> Any:
        bound.append(len(cache.steps))
        return empty(words)

    monkeypatch.setattr(session.memory, "empty", looking)
    cache.reserve(4, 64, 2)
    assert bound
    assert not any(bound)


def test_memory_is_taken_only_while_nobody_captures(make: Any) -> None:
    _, session = make()
    taken = threading.Event()

    def take() -> None:
        session.memory.upload(np.zeros(4, dtype=np.int64))
        taken.set()

    with session.memory.lock:
        thread = threading.Thread(target=take)
        thread.start()
        assert not taken.wait(0.1)
    assert taken.wait(5)
    thread.join()


def test_no_memory_in_a_capture_ends_that_request_and_capturing(make: Any, check: Any) -> None:
    model, session = make()
    first = session.recorder
    first.exhausted = True
    with (
        pytest.warns(RuntimeWarning, match="CUDA graphs are off"),
        pytest.raises(GenerationError, match="there is no memory for the request"),
    ):
        model.generate(PROMPTS[0], **GREEDY)
    assert session.recorder is not first  # a stream that was left capturing is of no use
    check(model.generate(PROMPTS, **GREEDY), PROMPTS, **GREEDY)
    assert not session.recorder.decoded


def test_graphs_that_may_never_be_freed_are_bounded(
    make: Any, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2ja_onnx.device.cuda.session._MOST_GRAPHS", 2)
    model, session = make()
    opened = {id(session.recorder): session.recorder}
    for rows in (1, 3, 5, 1, 3, 5):  # three buckets
        settings = GREEDY | {"num_return_sequences": rows}
        check(model.generate(PROMPTS[0], **settings), PROMPTS[0], **settings)
        opened[id(session.recorder)] = session.recorder
    assert len(opened) > 1
    assert all(len(set(recorder.decoded)) <= 2 for recorder in opened.values())


def test_forms_on_the_device(
    make: Callable[..., tuple[GPT2Ja, TestedSession]], reference: GPT2Ja
) -> None:
    model, _ = make()
    for chosen in ({"do_sample": False}, {"seed": 3}, {"num_beams": 2, "do_sample": False}):
        found = model.generate(PROMPTS[:3], regex="[ぁ-ん]{4,6}。?", **chosen)
        expected = reference.generate(PROMPTS[:3], regex="[ぁ-ん]{4,6}。?", **chosen)
        assert [result.text for result in found] == [result.text for result in expected]
        assert all(re.fullmatch("[ぁ-ん]{4,6}。?", result.text) for result in found)
