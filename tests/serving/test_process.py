"""The command as a process: signals, keys, sockets, what it refuses to start with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.serving.running import Running, in_process, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXED: dict[str, Any] = {"prompt": "近年の機械学習は", "max_tokens": 30, "seed": 7}
SLOW: dict[str, Any] = {
    "prompt": "朝の", "max_tokens": 900, "ignore_eos": True, "top_k": 0, "typical_p": 0.9, "n": 8,
}  # fmt: skip


class Caller(threading.Thread):
    """Reads a stream in a thread, to its end or for ever."""

    def __init__(self, running: Running, body: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._running = running
        self._body = body | {"stream": True}
        self.lines: list[str] = []
        self.error: Exception | None = None
        self.begun = threading.Event()

    def run(self) -> None:
        url = f"{self._running.url}/v1/completions"
        try:
            with httpx.stream("POST", url, json=self._body, timeout=60, trust_env=False) as answer:
                for line in answer.iter_lines():
                    if line:
                        self.lines.append(line)
                        self.begun.set()
        except httpx.HTTPError as error:
            self.error = error
        self.begun.set()


def end(running: Running, sig: int = signal.SIGTERM) -> int:
    """Send a signal, and wait for the end."""
    assert running.process is not None
    running.process.send_signal(sig)
    return running.process.wait(30)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_end(sig: int) -> None:
    with in_process("--drain-timeout", "60") as running:
        assert running.process is not None
        caller = Caller(running, SLOW | {"max_tokens": 200, "n": 4})
        caller.start()
        assert caller.begun.wait(20)
        running.process.send_signal(sig)
        wait_for(lambda: running.client.get("/ready").status_code == 503)
        refused = running.complete(**FIXED)
        assert refused.status_code == 503
        assert "shutting down" in refused.json()["error"]["message"]
        assert "retry-after" in refused.headers
        assert running.client.get("/health").status_code == 200
        assert running.process.wait(60) == 0
        caller.join(10)
        assert caller.error is None
        assert caller.lines[-1] == "data: [DONE]"
        assert sum('"finish_reason":"length"' in line for line in caller.lines) == 4


def test_what_does_not_end_in_time_is_cancelled() -> None:
    with in_process("--drain-timeout", "0.3") as running:
        caller = Caller(running, SLOW)
        caller.start()
        assert caller.begun.wait(20)
        started = time.monotonic()
        assert end(running) == 0
        assert time.monotonic() - started < 8
        caller.join(10)
        assert "shutting down" in caller.lines[-2]
        assert caller.lines[-1] == "data: [DONE]"


def test_a_second_signal_ends_at_once() -> None:
    with in_process("--drain-timeout", "60") as running:
        assert running.process is not None
        caller = Caller(running, SLOW)
        caller.start()
        assert caller.begun.wait(20)
        running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: running.client.get("/ready").status_code == 503)
        started = time.monotonic()
        assert end(running) == 128 + signal.SIGTERM
        assert time.monotonic() - started < 2


def test_idle_connections_do_not_hold_up_the_end() -> None:
    with in_process() as running, httpx.Client(base_url=running.url, trust_env=False) as client:
        assert client.get("/health").status_code == 200
        started = time.monotonic()
        assert end(running) == 0
        assert time.monotonic() - started < 5


def test_a_client_that_is_killed_frees_its_rows() -> None:
    """kill -9 of a client in mid-stream; another's text is as alone."""
    with in_process() as running:
        alone = running.texts(**FIXED)
        body = json.dumps(SLOW | {"stream": True})
        command = ["curl", "-sN", f"{running.url}/v1/completions", "-d", body]
        process = subprocess.Popen(
            [*command, "-H", "content-type: application/json"], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"data: ")
        assert running.texts(**FIXED) == alone
        process.kill()
        process.wait()
        process.stdout.close()
        running.wait_idle(3)
        assert running.texts(**FIXED) == alone


def test_a_body_of_100_megabytes() -> None:
    with in_process() as running:
        assert running.process is not None
        alone = running.texts(**FIXED)

        def resident() -> int:
            assert running.process is not None
            status = Path(f"/proc/{running.process.pid}/status").read_text(encoding="ascii")
            return int(re.findall(r"VmHWM:\s+(\d+)", status)[0])

        before = resident()

        def parts() -> Iterator[bytes]:
            for _ in range(1600):
                yield b" " * 65_536

        url = f"{running.url}/v1/completions"
        headers = {"content-type": "application/json"}
        for content in (b" " * 100_000_000, parts()):
            answer = httpx.post(url, content=content, headers=headers, timeout=60, trust_env=False)
            assert answer.status_code == 413
        assert resident() - before < 30_000  # kB
        assert running.texts(**FIXED) == alone


def test_keys_of_a_file_and_a_variable(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# keys of the team\none\n\n  two  \n", encoding="utf-8")
    with in_process("--key-file", str(keys), environment={"GPT2JA_API_KEYS": "three, four"}) as it:
        for key, status in (("one", 200), ("two", 200), ("three", 200), ("four", 200), ("#", 401)):
            headers = {"authorization": f"Bearer {key}"}
            assert it.client.get("/v1/models", headers=headers).status_code == status


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt2ja_onnx.cli", "serve", "--unix-socket", str(path)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        while f" at unix:{path}" not in (line := process.stderr.readline()):
            assert line
        assert path.stat().st_mode & 0o777 == 0o660
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url="http://any.example"
        ) as client:
            assert client.get("/ready").status_code == 200
            answer = client.post("/v1/completions", json=FIXED)
            assert answer.status_code == 200
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stderr.close()
    assert not path.exists()


def test_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out",
         str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    with in_process("--certificate", str(certificate), "--private-key", str(key)) as running:
        assert running.url.startswith("https://")
        import ssl

        context = ssl.create_default_context(cafile=str(certificate))
        answer = httpx.post(
            f"{running.url}/v1/completions", json=FIXED, verify=context, trust_env=False
        )
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--host", "0.0.0.0"], 2, "--without-key"),
        (["--model", "nowhere"], 1, "nowhere: no such bundle"),
        (["--max-choices", "0"], 2, "--max-choices must be above 0"),
        (["--private-key", __file__], 2, "--private-key needs --certificate"),
        (["--host", "host.invalid", "--without-key"], 1, "cannot bind to host.invalid"),
        (["--unix-socket", "/nowhere/socket"], 1, "cannot bind to /nowhere/socket"),
        (["--key-file", os.devnull], 1, "holds no key; write one a line"),
        (["--batch-size", "0"], 1, "batch_size must be at least 1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_it_does_not_start_with(options: list[str], code: int, message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gpt2ja_onnx.cli", "serve", "--port", "0", *options],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken() -> None:
    with in_process() as running:
        port = running.url.rpartition(":")[2]
        done = subprocess.run(
            [sys.executable, "-m", "gpt2ja_onnx.cli", "serve", "--port", port],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert f"port {port}: Address already in use" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for options, shown in (([], False), (["--log-prompts"], True)):
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "gpt2ja_onnx.cli", "serve", "--port", "0",
                 "--log-format", "json", *options],
                stderr=file,
            )  # fmt: skip
        try:
            wait_for(lambda: "serving demo at" in log.read_text(encoding="utf-8"), 30)
            url = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["message"].split()[
                -1
            ]
            headers = {"x-request-id": "mine-1"}
            answer = httpx.post(
                f"{url}/v1/completions", json=FIXED | {"n": 2}, headers=headers, trust_env=False
            )
            assert answer.headers["x-request-id"] == "mine-1"
            assert answer.json()["id"] == "cmpl-mine-1"
            bad = httpx.post(
                f"{url}/v1/completions", json={"prompt": "秘密", "n": 0}, trust_env=False,
                headers={"x-request-id": "no\twhite space"},
            )  # fmt: skip
            assert re.fullmatch("[0-9a-f]{24}", bad.headers["x-request-id"])
        finally:
            process.terminate()
            assert process.wait(20) == 0
        text = log.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        (good,) = [line for line in lines if line.get("id") == "mine-1"]
        assert (good["status"], good["finish_reason"]) == (200, "length")
        assert good["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"] > 0
        assert good["completion_tokens"] == 60
        assert 0 <= good["queue_s"] <= good["first_token_s"] <= good["seconds"]
        (failed,) = [line for line in lines if line.get("status") == 400]
        assert failed["error"].startswith("n must be at least 1")
        assert ("近年" in text) is shown
        assert "秘密" not in text
        assert ("texts" in good) is shown


def test_help_needs_no_extra() -> None:
    code = """
import sys
for name in ("uvicorn", "starlette", "msgspec", "prometheus_client", "httptools"):
    sys.modules[name] = None
from gpt2ja_onnx.cli import main
try:
    main(["serve", "--help"])
except SystemExit as exit:
    assert exit.code == 0
main(["serve"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "--max-waiting" in done.stdout
    assert done.returncode == 1
    assert "pip install -c constraints.txt 'gpt2ja-onnx[serve]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_imports_nothing_of_pytorch() -> None:
    code = """
import sys, threading, asyncio, time
from gpt2ja_serve.server import Server
from gpt2ja_serve.settings import ServeSettings
server = Server(ServeSettings(port=0))
async def run():
    task = asyncio.create_task(server.serve(sockets=[server.listener]))
    while server.service.phase != "ready":
        await asyncio.sleep(0.01)
    server.should_exit = True
    await task
asyncio.run(run())
found = [name for name in ("torch", "transformers", "optimum", "onnx") if name in sys.modules]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
