"""Servers under requests that come at given rates."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gpt2ja_bench.report import BASELINE, Served, Workload, read_report
from gpt2ja_bench.reporting.serving import goodput, within_limits
from gpt2ja_bench.running.engines.table import ENGINES
from gpt2ja_bench.running.runner import Runner
from gpt2ja_bench.running.serving.arrivals import Arrival, arrivals
from gpt2ja_bench.running.serving.client import drive
from gpt2ja_bench.running.serving.measure import serve
from gpt2ja_bench.running.serving.servers import missing
from gpt2ja_bench.running.shape import Shape
from gpt2ja_bench.running.stage import Stage
from gpt2ja_bench.running.workloads import Plan
from gpt2ja_onnx.bundle.demo import demo_bundle, demo_checkpoint
from gpt2ja_onnx.errors import BenchmarkError
from tests.benchmarks.test_runner import settings, spec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

WORKLOAD = Workload("serve", "Serve", "serve", 4, 8, 48, 8, rates=(40.0, 80.0, 160.0), seed=3)
_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str) -> bytes:
    return b'data: {"choices":[{"text":"%b"}]}\n\n' % text.encode()


Writer = asyncio.StreamWriter


async def answered(writer: Writer, body: dict[str, object]) -> None:
    """A token every 20 ms, the last two in one chunk, and one event cut in two."""
    writer.write(_HEAD)
    cut = event("い")
    for data in (event("あ"), cut[:9]):
        writer.write(chunk(data))
    await asyncio.sleep(0.02)
    writer.write(chunk(cut[9:]) + chunk(event("")))
    await asyncio.sleep(0.02)
    writer.write(chunk(event("う") + b"data: [DONE]\n\n") + chunk(b""))


async def refused(writer: Writer, body: dict[str, object]) -> None:
    writer.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")


async def broken(writer: Writer, body: dict[str, object]) -> None:
    writer.write(_HEAD + chunk(event("あ")))


async def mixed(writer: Writer, body: dict[str, object]) -> None:
    """By the request's seed: three are answered, the others not."""
    number = int(str(body["seed"]))
    await (answered, answered, refused, broken, answered)[number](writer, body)


async def stuck(writer: Writer, body: dict[str, object]) -> None:
    """The first request is answered after the others."""
    if body["seed"] == 0:
        await asyncio.sleep(1.0)
    await answered(writer, body)


def drive_against(
    behave: Callable[[Writer, dict[str, object]], Awaitable[None]],
    requests: Sequence[Arrival],
    limit: float = 10,
) -> Served:
    async def handle(reader: asyncio.StreamReader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"POST /v1/completions HTTP/1.1\r\n")
        length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
        with contextlib.closing(writer):
            await behave(writer, json.loads(await reader.readexactly(length)))
            await writer.drain()

    async def run() -> Served:
        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await drive(port, requests, 5.0, limit)

    return asyncio.run(run())


def requests(count: int, apart: float = 0.01) -> list[Arrival]:
    return [Arrival(apart * index, (20, 21), 3, index) for index in range(count)]


def test_requests_are_poisson_and_the_same_every_time() -> None:
    found = arrivals(WORKLOAD, 1000, 80.0)
    assert found == arrivals(WORKLOAD, 1000, 80.0)
    assert found != arrivals(dataclasses.replace(WORKLOAD, seed=4), 1000, 80.0)
    assert len(found) == 16  # for as long as 8 at 40 a second
    many = arrivals(dataclasses.replace(WORKLOAD, requests=4000), 1000, 40.0)
    gaps = np.diff([request.at for request in many])
    assert gaps.mean() == pytest.approx(1 / 40, rel=0.1)
    assert gaps.std() == pytest.approx(1 / 40, rel=0.1)  # as the exponential distribution's
    assert np.mean([request.new_tokens for request in many]) == pytest.approx(48, rel=0.05)
    assert len({request.prompt for request in many}) == len(many)


def test_the_client_counts_what_arrives() -> None:
    served = drive_against(mixed, requests(5))
    assert served.failed == 2
    assert served.tokens == 9
    assert len(served.first_tokens) == len(served.gaps) == 3
    assert all(0 < seconds < 0.015 + 0.5 for seconds in served.first_tokens)
    assert all(gap >= 0.019 for gap in served.gaps)
    assert served.between_tokens[0] >= 0.019
    assert served.seconds >= 0.04 + 0.04
    assert served.client_seconds > 0


def test_requests_do_not_wait_for_answers() -> None:
    served = drive_against(stuck, requests(5))
    assert served.failed == 0
    assert served.first_tokens[0] >= 1.0
    assert max(served.first_tokens[1:]) < 0.9


def test_a_server_that_gives_nothing() -> None:
    with pytest.raises(BenchmarkError, match="answered no request"):
        drive_against(refused, requests(2))
    with pytest.raises(BenchmarkError, match="1 requests took longer than 0 s"):
        drive_against(stuck, requests(1), limit=0.1)


def test_goodput_counts_requests_within_both_limits() -> None:
    served = Served(
        rate=10.0,
        seconds=4.0,
        first_tokens=(0.2, 1.5, 0.3),
        gaps=(0.05, 0.05, 0.2),
        between_tokens=(0.05, 0.1, 0.2),
        tokens=100,
        failed=1,
        server_seconds=1.0,
        client_seconds=0.1,
    )
    assert within_limits(served) == 0.25
    assert goodput(served) == 2.5


def test_this_projects_server(tmp_path: Path) -> None:
    engine = next(spec for spec in ENGINES if spec.id == "ours-int8")
    demo = demo_checkpoint()
    stage = Stage(demo, demo, Shape.read(demo), 1, "cpu", time_limit=60)
    served, memory = serve(engine, WORKLOAD, 40.0, stage, demo_bundle(), tmp_path / "log")
    assert served.failed == 0
    assert len(served.first_tokens) == 8
    asked = sum(request.new_tokens for request in arrivals(WORKLOAD, stage.shape.vocab_size, 40.0))
    assert served.tokens == asked
    assert served.server_seconds > 0
    assert memory > 50e6
    with pytest.raises(BenchmarkError, match=r"its server ended: .*nowhere"):
        serve(engine, WORKLOAD, 40.0, stage, tmp_path / "nowhere", tmp_path / "log")


def test_servers_are_sent_more_until_they_cannot_keep_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capacity = {"ours-fast": 1000.0, "ours-slow": 60.0}

    def serve(engine: object, workload: Workload, rate: float, *_: object) -> tuple[Served, int]:
        name = str(getattr(engine, "id", ""))
        if name == "broken":
            raise BenchmarkError("its server ended: no memory")
        late = rate > capacity[name]
        first = (2.0 if late else 0.1,)
        return Served(rate, 1.0, first, (0.01,), (0.01, 0.01, 0.01), 1, 0, 0.1, 0.1), 1000

    monkeypatch.setattr("gpt2ja_bench.running.contestant.serve", serve)
    monkeypatch.setattr("gpt2ja_bench.running.serving.servers.LLAMA_SERVER", "no-such-server")
    plan = Plan(WORKLOAD, 1, 3)
    done: list[float] = []
    chosen = settings(
        *(
            dataclasses.replace(spec(name, "fast"), server="gpt2ja")
            for name in ("ours-fast", "ours-slow", "broken")
        ),
        dataclasses.replace(spec("llama", "fast"), server="llama.cpp"),
        plans=(plan,),
    )
    report = Runner(chosen, tmp_path, lambda name, cost: done.append(cost)).run()
    assert report == read_report(tmp_path / "report.json")
    results = {result.engine: result for result in report.results}
    assert [served.rate for served in results["ours-fast"].served] == [40.0, 80.0, 160.0]
    assert [served.rate for served in results["ours-slow"].served] == [40.0, 80.0]
    assert results["broken"].status == "failed"
    assert results["broken"].reason == "at 40 requests a second: its server ended: no memory"
    assert results["llama"].status == "skipped"
    assert "no-such-server is not installed: make" in results["llama"].reason
    assert BASELINE not in results
    assert sum(done) == pytest.approx(chosen.cost)


def test_one_precision_a_library_is_served() -> None:
    assert {engine.id for engine in ENGINES if engine.server and engine.by_default} == {
        *("ours-int8", "llama.cpp-q8_0")
    }
    assert missing(next(engine for engine in ENGINES if engine.id == "ours-int8")) is None
