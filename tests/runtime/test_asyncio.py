"""asyncio without a thread a request; what is cancelled is over at the next step."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from gpt2ja_onnx import GPT2Ja, Request, RequestCost
from gpt2ja_onnx.errors import GenerationError, QueueFullError
from tests.conftest import CONTEXT
from tests.idle import calls_until_idle, wait_until_idle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

    from gpt2ja_onnx.settings.keywords import Settings

LONG = 100  # tokens; nothing ends sooner, see `model`


@pytest.fixture(scope="module")
def model(bundles: dict[str, Path]) -> Iterator[GPT2Ja]:
    with GPT2Ja.load(bundles["int8"], batch_size=8, max_waiting=200) as loaded:
        loaded._intake.defaults = loaded.defaults.override(
            {"eos_token_id": [], "do_sample": True, "seed": 1, "max_new_tokens": LONG}
        )
        yield loaded


def test_many_calls_take_no_thread(model: GPT2Ja) -> None:
    async def run() -> tuple[int, list[str]]:
        calls = [
            asyncio.create_task(model.agenerate("朝の", seed=index, max_new_tokens=20))
            for index in range(40)
        ]
        await asyncio.sleep(0.01)
        threads = threading.active_count()
        results = await asyncio.gather(*calls)
        return threads, [result[0].text for result in results]

    model.generate("朝の", max_new_tokens=1)
    before = threading.active_count()
    threads, texts = asyncio.run(run())
    assert threads <= before
    assert texts == [
        model.generate("朝の", seed=index, max_new_tokens=20)[0].text for index in range(40)
    ]


def test_other_work_of_the_loop_is_not_held_up(model: GPT2Ja) -> None:
    async def run() -> float:
        calls = [asyncio.create_task(model.agenerate("朝の", seed=i)) for i in range(24)]
        await asyncio.sleep(0.01)
        started = time.monotonic()
        await asyncio.to_thread(time.sleep, 0.01)
        waited = time.monotonic() - started
        await asyncio.gather(*calls)
        return waited

    assert asyncio.run(run()) < 0.5


def test_streams_are_those_of_generate(model: GPT2Ja) -> None:
    async def read(seed: int) -> str:
        return "".join([c.text async for c in model.astream("彼は", seed=seed, max_new_tokens=12)])

    async def run() -> list[str]:
        return list(await asyncio.gather(*map(read, range(12))))

    assert asyncio.run(run()) == [
        model.generate("彼は", seed=seed, max_new_tokens=12)[0].text for seed in range(12)
    ]


def test_cancelling_a_call_cancels_all_that_it_submitted(model: GPT2Ja) -> None:
    async def run() -> None:
        call = asyncio.create_task(
            model.agenerate(["朝の"] * 20, num_return_sequences=4, max_new_tokens=LONG)
        )
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        # Within the loop: its end would wait for threads, if there were any.
        assert calls_until_idle(model) <= 3

    asyncio.run(run())


def test_leaving_a_stream_cancels_it(model: GPT2Ja) -> None:
    async def run() -> None:
        stream = model.astream("朝の", num_return_sequences=60)
        async for _ in stream:
            break
        await stream.aclose()
        assert calls_until_idle(model) <= 3

    asyncio.run(run())


def test_a_short_stream_does_not_wait_for_long_calls(model: GPT2Ja) -> None:
    def slow(history: np.ndarray, scores: np.ndarray) -> np.ndarray:
        time.sleep(0.005)  # other processes may hold the loop up for a whole text of this model
        return scores

    async def run() -> list[bool]:
        calls = [asyncio.create_task(model.agenerate("朝の", seed=i)) for i in range(6)]
        calls.append(asyncio.create_task(model.agenerate("朝の", logits_processors=[slow])))
        await asyncio.sleep(0)  # all are submitted, and one row is left
        chunks = [chunk async for chunk in model.astream("彼は", max_new_tokens=3)]
        assert len(chunks) == 3
        done = [call.done() for call in calls]
        await asyncio.gather(*calls)
        return done

    assert asyncio.run(run()) == [False] * 7


def test_a_handle_is_awaited_and_iterated(model: GPT2Ja) -> None:
    async def run() -> tuple[str, str]:
        handle = model.submit("彼は", seed=3, max_new_tokens=9)
        chunks = [chunk.text async for chunk in handle]
        (result,) = await handle
        return "".join(chunks), result.text

    streamed, text = asyncio.run(run())
    assert streamed == text


def test_a_loop_that_is_closed_meanwhile_harms_nobody(model: GPT2Ja) -> None:
    async def leave() -> None:
        handles.append(model.submit("朝の"))
        asyncio.create_task(handles[-1].__aiter__().__anext__())  # noqa: RUF006
        await asyncio.sleep(0)

    handles: list[Request] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert len(handles[0].result()[0].token_ids) == LONG


def test_a_full_queue_refuses_and_waits_where_it_can(model: GPT2Ja) -> None:
    async def run() -> list[BaseException | list[object]]:
        calls = [
            model.agenerate("朝の", num_return_sequences=50, max_new_tokens=9) for _ in range(12)
        ]
        return await asyncio.gather(*calls, return_exceptions=True)  # type: ignore[return-value]

    outcomes = asyncio.run(run())
    refused = [o for o in outcomes if isinstance(o, QueueFullError)]
    assert refused
    assert "200 sequences" in str(refused[0])
    assert len(refused) < 12
    handles = []

    def fill() -> None:
        while True:
            handles.append(model.submit("朝の", max_new_tokens=30))

    with pytest.raises(QueueFullError):
        fill()
    waited = model.generate(["朝の"] * 300, max_new_tokens=2)  # in a window, beside the full queue
    assert len(waited) == 300
    assert all(len(handle.result()) == 1 for handle in handles)


def test_long_prompts_fill_the_queue(bundles: dict[str, Path]) -> None:
    with GPT2Ja.load(bundles["int8"], batch_size=1, max_waiting_tokens=200) as model:
        wide = model.submit("朝の", num_return_sequences=60, max_new_tokens=LONG)
        long = model.submit([7] * 100)
        with pytest.raises(QueueFullError, match="of 200 prompt tokens wait"):
            model.submit([7] * 100)
        wide.cancel()
        long.cancel()


def test_scores_for_asyncio(model: GPT2Ja) -> None:
    async def run() -> list[float]:
        scores = await asyncio.gather(*(model.ascore(["朝の市場", "彼は"]) for _ in range(5)))
        return [score.logprob for scored in scores for score in scored]

    assert asyncio.run(run()) == [s.logprob for s in model.score(["朝の市場", "彼は"])] * 5


def test_scoring_waits_in_the_same_queue(model: GPT2Ja) -> None:
    async def run() -> list[object]:
        calls = [model.ascore(["朝の市場" * 20] * 150) for _ in range(4)]
        return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = asyncio.run(run())
    refused = [outcome for outcome in outcomes if isinstance(outcome, QueueFullError)]
    assert 0 < len(refused) < 4
    assert all(len(o) == 150 for o in outcomes if isinstance(o, list))
    assert model._worker.waiting == (0, 0)


def test_cancelling_scoring_ends_it(model: GPT2Ja) -> None:
    async def run() -> None:
        call = asyncio.create_task(model.ascore(["朝の市場" * 20] * 1000))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert calls_until_idle(model) <= 1

    asyncio.run(run())


def test_async_with_closes(bundles: dict[str, Path]) -> None:
    async def run() -> GPT2Ja:
        async with GPT2Ja.load(bundles["int8"]) as model:
            assert len(await model.agenerate("朝の", max_new_tokens=2)) == 1
        return model

    closed = asyncio.run(run())
    with pytest.raises(GenerationError, match="closed"):
        closed.generate("朝の")


def test_a_slow_reader_gets_the_same_chunks_in_fewer_lists(model: GPT2Ja) -> None:
    async def run() -> tuple[list[int], list[int]]:
        request = model.submit("朝の", seed=3, num_return_sequences=2, logprobs=1)
        sizes, ids = [], []
        async for chunks in request.batches():
            sizes.append(len(chunks))
            ids += [chunk.token_id for chunk in chunks if chunk.sequence_index == 1]
            assert all(chunk.logprobs is not None for chunk in chunks)
            await asyncio.sleep(0.02)
        return sizes, ids

    sizes, ids = asyncio.run(run())
    assert sum(sizes) == 2 * LONG
    assert len(sizes) < LONG
    expected = model.generate("朝の", seed=3, num_return_sequences=2)[1]
    assert ids == expected.token_ids


def test_batches_raise_what_the_request_fails_with(model: GPT2Ja) -> None:
    async def run() -> None:
        async for _ in model.submit("朝の", timeout=1e-4).batches():
            pass

    with pytest.raises(GenerationError, match="timeout"):
        asyncio.run(run())


def test_many_loops_are_woken(model: GPT2Ja) -> None:
    """Each loop has its own way to be woken, and one that has ended holds up no other."""
    texts: dict[int, str] = {}

    def loop(index: int) -> None:
        async def run() -> str:
            return "".join([chunk.text async for chunk in model.astream("朝の", seed=index)])

        texts[index] = asyncio.run(run())

    for _ in range(3):
        threads = [threading.Thread(target=loop, args=(index,)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert texts == {index: model.generate("朝の", seed=index)[0].text for index in range(6)}
        texts.clear()


def test_a_request_knows_its_times(model: GPT2Ja) -> None:
    before = time.monotonic()
    request = model.submit("朝の", streamed=False)
    assert request.times.ended is None
    request.result()
    submitted, started, first_token, ended = request.times
    assert started is not None
    assert first_token is not None
    assert ended is not None
    assert before <= submitted <= started <= first_token < ended <= time.monotonic()


@pytest.mark.parametrize("beams", [1, 2])
def test_a_result_says_what_its_request_cost(model: GPT2Ja, beams: int) -> None:
    prompt = [11 + beams] * 100
    settings: Settings = {
        "max_new_tokens": 8,
        "min_new_tokens": 8,
        "num_beams": beams,
        "num_return_sequences": 2,
        "seed": 1,
    }
    for shared in (0, 96):  # three blocks are kept, and the two sequences are not counted
        request = model.submit(prompt, streamed=False, **settings)
        results = request.result()
        submitted, started, first_token, ended = request.times
        assert started is not None
        assert first_token is not None
        assert ended is not None
        expected = RequestCost(
            round(started - submitted, 6),
            round(first_token - started, 6),
            round(ended - first_token, 6),
            shared,
        )
        assert [result.cost for result in results] == [expected] * 2
        # Eight steps of two rows follow one prompt of 100 tokens.
        assert expected.decode_time > expected.prefill_time / 10
        assert results[0].to_dict()["cost"] == asdict(expected)


def test_results_that_cost_more_are_equal(model: GPT2Ja) -> None:
    first, second = (model.generate("朝の市場には、", seed=3) for _ in range(2))
    assert first == second
    assert first[0].cost != second[0].cost


def test_a_prompt_without_room_costs_its_wait(model: GPT2Ja) -> None:
    (result,) = model.generate([[9] * CONTEXT])
    assert result.cost.queue_time > 0
    assert (result.cost.prefill_time, result.cost.decode_time, result.cost.shared_tokens) == (
        0,
    ) * 3


def test_statistics(model: GPT2Ja) -> None:
    wait_until_idle(model)
    before = model.statistics()
    requests = [
        model.submit([9] * 40, num_return_sequences=4, seed=index, streamed=False)
        for index in range(3)
    ]
    most_running = most_waiting = 0
    while not all(request.done for request in requests):
        now = model.statistics()
        most_running = max(most_running, now.running)
        most_waiting = max(most_waiting, now.waiting)
        assert 0 <= now.cache_usage <= 1
    wait_until_idle(model)
    after = model.statistics()
    assert (most_running, after.running, after.waiting) == (8, 0, 0)
    assert most_waiting >= 4
    assert after.prompt_tokens - before.prompt_tokens == 12 * 40
    # Sequences of a prompt share it, and so do equal prompts but for two tokens.
    assert 6 * 38 <= after.shared_tokens - before.shared_tokens <= 9 * 40 + 2 * 38
    computed = (after.prompt_tokens - before.prompt_tokens) - (
        after.shared_tokens - before.shared_tokens
    )
    generated = sum(r.completion_tokens for request in requests for r in request.result())
    assert after.step_tokens - before.step_tokens == computed + generated
    steps = [b - a for a, b in zip(before.steps_by_size, after.steps_by_size, strict=True)]
    assert sum(steps) == after.steps - before.steps
