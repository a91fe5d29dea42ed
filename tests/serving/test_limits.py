"""What strangers, crowds and slow clients can do: no more than their share."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.serving.running import Running, in_thread, wait_for
from tests.serving.test_errors import told

if TYPE_CHECKING:
    from collections.abc import Iterator

# Settings that look at the whole vocabulary make a step slow.
LONG = {"prompt": "朝の", "max_tokens": 900, "ignore_eos": True, "top_k": 0, "typical_p": 0.9}
FIXED: dict[str, Any] = {"prompt": "近年の機械学習は", "max_tokens": 30, "seed": 7}


@pytest.fixture(scope="module")
def small() -> Iterator[Running]:
    """A server with little room and little patience."""
    with in_thread(
        batch_size=2, max_waiting=3, max_waiting_tokens=1200, max_body=65_536, max_header=4096,
        receive_timeout=1.5, send_timeout=1.0, request_timeout=30.0, keep_alive=1.0,
    ) as running:  # fmt: skip
        yield running


Connect = Callable[[], socket.socket]


@pytest.fixture
def connect(small: Running) -> Iterator[Connect]:
    """Makes connections to the small server; those that a test leaves open are closed."""
    url = httpx.URL(small.url)
    with contextlib.ExitStack() as stack:

        def make() -> socket.socket:
            made = socket.create_connection((url.host, url.port or 0), timeout=20)
            return stack.enter_context(made)

        yield make


def post(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return (
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % len(content)
    ) + content


def everything(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def test_a_full_queue_is_429(small: Running, connect: Connect) -> None:
    alone = small.texts(**FIXED)
    connections = [connect() for _ in range(2)]
    connections[0].sendall(post(LONG | {"n": 2}))
    wait_for(lambda: small.rows[0] == 2)
    connections[1].sendall(post(LONG | {"n": 3}))
    wait_for(lambda: small.rows[1] == 3)
    answer = small.complete(prompt="夜の")
    error = told(answer, 429)
    assert error["code"] == "queue_full"
    assert "3 of 3 sequences" in error["message"]
    assert int(answer.headers["retry-after"]) >= 1
    for connection in connections:  # those that wait and those that run leave
        connection.close()
    small.wait_idle(2)
    assert small.texts(**FIXED) == alone


def test_a_queue_full_of_tokens_is_429(small: Running, connect: Connect) -> None:
    connections = [connect() for _ in range(2)]
    connections[0].sendall(post(LONG | {"n": 2}))
    wait_for(lambda: small.rows[0] == 2)
    connections[1].sendall(post(LONG | {"prompt": [9] * 900, "max_tokens": 9}))
    wait_for(lambda: small.rows[1] == 1)
    assert "prompt tokens" in told(small.complete(prompt=[9] * 400), 429)["message"]
    # All prompts of a request are taken or none.
    told(small.complete(prompt=[[9], [9], [9] * 400]), 429)
    for connection in connections:
        connection.close()
    small.wait_idle(2)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_rows(
    small: Running, connect: Connect, stream: bool
) -> None:
    connection = connect()
    connection.sendall(post(LONG | {"stream": stream, "n": 2}))
    wait_for(lambda: small.rows[0] == 2)
    found = b""
    while stream and b"data: " not in found:
        found += connection.recv(65_536)
    connection.close()
    small.wait_idle(1)


def test_a_client_that_leaves_behind_another_request(small: Running, connect: Connect) -> None:
    """Pipelining: the request that runs belongs to the connection as well as the last one."""
    connection = connect()
    connection.sendall(post(LONG) + post(LONG))
    wait_for(lambda: small.rows[0] == 1)
    connection.close()
    small.wait_idle(1)


def test_pipelined_requests_are_answered_in_order(small: Running, connect: Connect) -> None:
    connection = connect()
    bodies = [FIXED | {"max_tokens": count} for count in (2, 5)]
    connection.sendall(b"".join(post(body) for body in bodies))
    found = everything(connection)  # until the idle connection is closed
    parts = [json.loads(part.split(b"\r\n\r\n")[1]) for part in found.split(b"HTTP/1.1 200 OK")[1:]]
    tokens = [part["usage"]["completion_tokens"] for part in parts]
    assert tokens == [2, 5]


def test_a_body_that_is_too_large_is_413(small: Running) -> None:
    body = b'{"prompt": "' + b"x" * 70_000 + b'"}'
    headers = {"content-type": "application/json"}
    answer = small.client.post("/v1/completions", content=body, headers=headers)
    assert told(answer, 413)["code"] == "body_too_large"

    def parts() -> Iterator[bytes]:  # without a length
        for _ in range(100):
            yield b" " * 1000

    told(small.client.post("/v1/completions", content=parts(), headers=headers), 413)


def test_a_head_that_is_too_large_is_431(small: Running, connect: Connect) -> None:
    told(small.client.get("/health", headers={"x-filler": "x" * 5000}), 431)
    told(small.client.get("/health?" + "x" * 5000), 431)
    many = {f"x-{number}": "x" * 40 for number in range(100)}
    told(small.client.get("/health", headers=many), 431)
    connection = connect()
    connection.sendall(b"GET /health HTTP/1.1\r\nx-endless: ")
    sent = 0
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while sent < 1_000_000:
            sent += connection.send(b"x" * 1000)
            time.sleep(0.001)
    assert sent < 1_000_000


@pytest.mark.parametrize(
    "data",
    [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\x00" * 99],
)
def test_what_is_no_http_is_400(small: Running, connect: Connect, data: bytes) -> None:
    connection = connect()
    connection.sendall(data)
    assert b"HTTP/1.1 400" in everything(connection)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"POST /v1/completions HTTP/1.1\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: application/json\r\ncontent-length: 9\r\n\r\n{",
    ],
)
def test_a_request_that_does_not_come_is_closed(
    small: Running, connect: Connect, data: bytes
) -> None:
    connection = connect()
    started = time.monotonic()
    connection.sendall(data)
    with contextlib.suppress(ConnectionResetError):
        assert everything(connection) == b""
    assert 1 < time.monotonic() - started < 4


def test_a_byte_a_moment_is_not_enough(small: Running, connect: Connect) -> None:
    connection = connect()
    started = time.monotonic()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for byte in post(FIXED):
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
        connection.recv(1)
    assert time.monotonic() - started < 4


def test_an_idle_connection_is_closed(small: Running, connect: Connect) -> None:
    connection = connect()
    connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert b"200 OK" in everything(connection)  # it ends


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_does_not_read_is_closed(stream: bool) -> None:
    """An answer larger than the system's buffers is not kept for it, and others go on meanwhile."""
    large = {"prompt": [9] * 1000, "n": 32, "echo": True, "logprobs": 20, "max_tokens": 0}
    with in_thread(send_timeout=4.0) as running:
        assert running.server is not None
        service, state = running.server.service, running.server.server_state
        alone = running.texts(**FIXED)
        running.complete(**large | {"n": 1})  # what scoring takes is there from here on
        before = memory()
        url = httpx.URL(running.url)
        with socket.create_connection((url.host, url.port or 0)) as connection:
            connection.sendall(post(large | {"stream": stream}))
            wait_for(lambda: service.running == 1)
            wait_for(lambda: running.rows[1] == 0)  # it is scored
            assert running.texts(**FIXED) == alone
            wait_for(lambda: service.running == 1)  # an answer is read before it is counted out
            assert memory() - before < 40e6
            wait_for(lambda: service.running == 0, 15)
            wait_for(lambda: not state.connections, 10)


def memory() -> int:
    """Bytes of this process that are in memory."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_what_takes_too_long_is_504() -> None:
    with in_thread(request_timeout=0.2) as running:
        for body in (LONG, LONG | {"timeout": 5}, {"prompt": [9] * 200_000, "echo": True,
                     "max_tokens": 0, "logprobs": 0}):  # fmt: skip
            error = told(running.complete(**body), 504)
            assert error["message"] == "the request was not finished within 0.2 s"
        assert told(running.complete(**LONG | {"timeout": 0.01}), 408)
        running.wait_idle(5)


def test_others_are_not_disturbed(small: Running, connect: Connect) -> None:
    """Clients that come, fail and leave change nothing in a text."""
    alone = small.texts(**FIXED)
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            connection = connect()
            connection.sendall(post(LONG | {"stream": True}))
            connection.recv(300)
            connection.close()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(5):
            answer = small.complete(**FIXED)
            if answer.status_code == 200:
                assert [choice["text"] for choice in answer.json()["choices"]] == alone
            else:
                told(answer, 429)
    finally:
        stop.set()
        thread.join()
    small.wait_idle()


def test_a_thousand_connections_that_send_nothing(small: Running, connect: Connect) -> None:
    alone = small.texts(**FIXED)
    server = small.server
    assert server is not None
    connections = [connect() for _ in range(1000)]
    assert small.texts(**FIXED) == alone
    wait_for(lambda: len(server.server_state.connections) < 10, 15)
    for connection in connections:
        connection.close()
