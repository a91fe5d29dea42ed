"""The one client of every server: raw HTTP/1.1 and server-sent events over asyncio.

A library's client would take more of the processor than a small model's server does.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from gpt2ja_bench.report import Served
from gpt2ja_onnx.errors import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gpt2ja_bench.running.serving.arrivals import Arrival

_HOST = "127.0.0.1"
_EVENT, _DONE = b"data: ", b"data: [DONE]"


@dataclass(slots=True)
class _Answer:
    """The clock when a request was due, and at every arrival of text; whether it came whole."""

    due: float
    marks: list[float] = field(default_factory=list)
    whole: bool = False


async def drive(port: int, requests: Sequence[Arrival], rate: float, limit: float) -> Served:
    """Send every request at its time, whatever became of those before, and time the answers.

    Times count from when a request was due, so a client that falls behind is not in the server's
    favour. The server's processor time is left at 0.

    Args:
        port: Of the server, on this machine.
        requests: In the order of their times.
        rate: At which they come, for the report.
        limit: Seconds for all of it.

    Raises:
        BenchmarkError: It took longer, or no request was answered.
    """
    used, started = time.process_time(), time.perf_counter() + 0.05
    answers = [_Answer(started + request.at) for request in requests]
    try:
        async with asyncio.timeout(limit):
            await asyncio.gather(
                *(_ask(port, *pair) for pair in zip(requests, answers, strict=True))
            )
    except TimeoutError as error:
        raise BenchmarkError(f"{len(requests)} requests took longer than {limit:.0f} s") from error
    whole = [(r, a) for r, a in zip(requests, answers, strict=True) if a.whole]
    if not whole:
        raise BenchmarkError("the server answered no request")
    gaps = [later - earlier for _, a in whole for earlier, later in pairwise(a.marks)]
    return Served(
        rate=rate,
        seconds=max(a.marks[-1] for _, a in whole) - started,
        first_tokens=tuple(round(a.marks[0] - a.due, 6) for _, a in whole),
        gaps=tuple(
            round((a.marks[-1] - a.marks[0]) / max(1, r.new_tokens - 1), 6) for r, a in whole
        ),
        between_tokens=_percentiles(gaps),
        tokens=sum(r.new_tokens for r, _ in whole),
        failed=len(requests) - len(whole),
        server_seconds=0.0,
        client_seconds=time.process_time() - used,
    )


def _percentiles(gaps: list[float]) -> tuple[float, float, float]:
    p50, p95, p99 = np.percentile(gaps or [0.0], [50, 95, 99])
    return float(p50), float(p95), float(p99)


async def _ask(port: int, request: Arrival, answer: _Answer) -> None:
    body = json.dumps(request.body()).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {_HOST}:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    await asyncio.sleep(max(0.0, answer.due - time.perf_counter()))
    try:
        reader, writer = await asyncio.open_connection(_HOST, port)
        with closing(writer):
            writer.write(head.encode() + body)
            async for line in _lines(reader):
                if line.startswith(_DONE):
                    answer.whole = bool(answer.marks)
                    return
                if line.startswith(_EVENT) and b'"text":""' not in line:
                    answer.marks.append(time.perf_counter())
    except (OSError, ValueError, asyncio.IncompleteReadError):
        return  # counts as failed


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of an answer's chunked body; none of one whose status is not 200.

    Raises:
        ValueError: It is no such answer.
        IncompleteReadError: It broke off.
    """
    status, *_ = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    if b" 200 " not in status:
        return
    rest = b""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        data = rest + await reader.readexactly(size)
        await reader.readexactly(2)
        *lines, rest = data.split(b"\n")
        for line in lines:
            yield line
