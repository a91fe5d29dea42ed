"""How models, requests and processes end: at once, cleanly, and without leaving anything behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.device.cpu.plan import CpuPlan
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.engine.worker import Worker
from gpt2ja_onnx.errors import CancelledError, ClosedError, GenerationError
from gpt2ja_onnx.settings.keywords import Settings
from tests.fakes import FakeSession, expected_ids, make_group, token_ids
from tests.idle import calls_until_idle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG = Settings(max_new_tokens=100, eos_token_id=[], num_return_sequences=60)
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def model(bundles: dict[str, Path]) -> Iterator[GPT2Ja]:
    with GPT2Ja.load(bundles["int8"], batch_size=8) as loaded:
        yield loaded


def engine_threads() -> int:
    return sum(thread.name == "gpt2ja-onnx" for thread in threading.enumerate())


def test_models_that_nobody_holds_are_freed(bundles: dict[str, Path]) -> None:
    before = engine_threads()
    references: list[weakref.ref[Any]] = []
    for _ in range(5):
        model = GPT2Ja.load(bundles["int8"])
        model.generate("朝の", max_new_tokens=2)
        references += [weakref.ref(model), weakref.ref(model._worker._engine)]
        del model
    end = time.monotonic() + 5
    while engine_threads() > before and time.monotonic() < end:
        time.sleep(0.01)
    gc.collect()
    assert engine_threads() == before
    assert not any(reference() for reference in references)


def test_a_handle_outlives_its_model(bundles: dict[str, Path]) -> None:
    handle = GPT2Ja.load(bundles["int8"]).submit("朝の", max_new_tokens=30, eos_token_id=[])
    gc.collect()
    assert len(handle.result()[0].token_ids) == 30


def test_a_dropped_handle_and_a_stream_never_begun_are_cancelled(model: GPT2Ja) -> None:
    handle, stream = model.submit("朝の", **LONG), model.stream("朝の", **LONG)
    next(iter(handle))  # it runs
    del handle, stream
    assert calls_until_idle(model) <= 3


def test_a_second_loop_goes_on_where_the_first_stopped(model: GPT2Ja) -> None:
    handle = model.submit("朝の", max_new_tokens=9, eos_token_id=[], seed=1)
    first = []
    for chunk in handle:
        first.append(chunk.token_id)
        if len(first) == 4:
            break
    rest = [chunk.token_id for chunk in handle]
    assert [*first, *rest] == handle.result()[0].token_ids
    assert list(handle) == []
    assert len(handle.result()) == 1


def test_two_readers_of_one_handle_share_its_chunks(model: GPT2Ja) -> None:
    handle = model.submit("朝の", max_new_tokens=60, eos_token_id=[], seed=1)
    read: list[int] = []

    def work() -> None:
        read.extend(chunk.token_id for chunk in handle)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(read) == sorted(handle.result()[0].token_ids)


def test_an_exception_in_a_with_block_does_not_wait(bundles: dict[str, Path]) -> None:
    handles = []

    def leave() -> None:
        with GPT2Ja.load(bundles["int8"]) as model:
            handles.append(model.submit("朝の", **LONG))
            raise ZeroDivisionError

    started = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        leave()
    assert time.monotonic() - started < 2
    with pytest.raises(CancelledError):
        handles[0].result()


@contextlib.contextmanager
def interrupted() -> Iterator[None]:
    """What is done in the block is interrupted, as by Ctrl-C, a moment later."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_result_that_is_interrupted_is_cancelled(model: GPT2Ja) -> None:
    handle = model.submit("朝の", **LONG)
    with interrupted():
        handle.result()
    assert calls_until_idle(model) <= 3
    assert isinstance(handle.error, CancelledError)


def test_a_close_that_is_interrupted_can_be_repeated(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C while the process waits for its end must not leave a thread behind."""
    run = CpuPlan.run

    def slow(plan: CpuPlan) -> None:
        time.sleep(0.3)
        run(plan)

    monkeypatch.setattr(CpuPlan, "run", slow)
    model = GPT2Ja.load(bundles["int8"], batch_size=1)
    handle = model.submit("朝の", **LONG)
    next(iter(handle))
    with interrupted():
        model.close(cancel=True)
    model.close()
    assert handle.done


def test_a_thread_that_cannot_be_started_is_an_error(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with GPT2Ja.load(bundles["int8"]) as model:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(GenerationError, match="cannot be started: can't start new thread"):
                model.generate("朝の")
        assert model._worker.waiting == (0, 0)
        assert len(model.generate("朝の", max_new_tokens=2)) == 1


def test_those_who_wait_for_the_queue_are_woken_by_the_end(bundles: dict[str, Path]) -> None:
    model = GPT2Ja.load(bundles["int8"], batch_size=1, max_waiting=1)
    handles = [model.submit("朝の", **LONG)]
    found: list[BaseException] = []

    def wait() -> None:
        try:
            model.submit("朝の", wait=True)
        except GenerationError as error:
            found.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    model.close(cancel=True)
    thread.join(5)
    assert [type(error) for error in found] == [ClosedError]
    del handles


# --- processes ---

SUBMITS = """
from gpt2ja_onnx import GPT2Ja
model = GPT2Ja.load("demo")
handles = [model.submit("朝の", max_new_tokens=200, min_new_tokens=200, num_return_sequences=40)
           for _ in range(5)]
next(iter(handles[0]))
print("ready", flush=True)
"""


def start(code: str, *arguments: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_process_that_ends_while_requests_run_ends_cleanly() -> None:
    # The demo model's steps are long: the end comes while the thread is inside of onnxruntime.
    process = start(SUBMITS)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (0, "ready\n", "")


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_ends_generate_and_cancels_what_it_submitted(
    bundles: dict[str, Path], times: int
) -> None:
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from gpt2ja_onnx import GPT2Ja
from tests.fakes import FakeSession, expected_ids, make_group, token_ids
from tests.idle import calls_until_idle
model = GPT2Ja.load(sys.argv[1], batch_size=8)
model.generate("朝の", max_new_tokens=1)
print("ready", flush=True)
try:
    model.generate(["朝の"] * 500, max_new_tokens=100, eos_token_id=[])
except KeyboardInterrupt:
    pass
print(calls_until_idle(model) <= 3, flush=True)
"""
    process = start(code, bundles["int8"])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    if times == 1:
        assert (process.returncode, out, errors) == (0, "True\n", "")
    else:
        assert process.returncode in (0, 1, -signal.SIGINT)  # never an abort
        assert "terminate" not in errors


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_ends_the_command(
    bundles: dict[str, Path], tmp_path: Path, times: int
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        '{"prompt": "朝の", "max_new_tokens": 1}\n'
        '{"prompt": "朝の", "max_new_tokens": 100, "num_return_sequences": 4000}\n',
        encoding="utf-8",
    )
    command = [
        sys.executable, "-m", "gpt2ja_onnx.cli", "generate", "--input", str(prompts),
        "--model", str(bundles["int8"]), "--format", "jsonl",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    assert "prompt" in process.stdout.readline()
    time.sleep(0.1)
    started = time.monotonic()
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == "interrupted"
    assert time.monotonic() - started < 2


def test_a_forked_child_is_told_what_to_do_and_ends(bundles: dict[str, Path]) -> None:
    code = """
import os, signal, sys
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.errors import ClosedError
model = GPT2Ja.load(sys.argv[1])
model.generate("朝の", max_new_tokens=2)
child = os.fork()
signal.alarm(50)  # neither process outlives a failed test
if child == 0:
    try:
        model.generate("朝の", max_new_tokens=2)
    except ClosedError as error:
        assert "load it in the child" in str(error)
        model.close()
        with GPT2Ja.load(sys.argv[1]) as own:
            assert len(own.generate("朝の", max_new_tokens=2)) == 1
        sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(model.generate("朝の")))
"""
    process = start(code, bundles["int8"])
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "7 1\n", "")


def test_work_that_comes_as_the_idle_time_ends_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is up, and before the engine's thread has the lock again somebody submits."""
    worker = Worker(Engine(FakeSession(), max_rows=2), max_waiting=9, max_waiting_tokens=99)
    first, second = (make_group([1, 2, 3], max_new_tokens=4) for _ in range(2))
    condition, wait, late = worker._condition, worker._condition.wait, [second]

    def wait_too_long(timeout: float | None = None) -> bool:
        if timeout is None or not late:
            return wait(timeout)
        condition.release()
        submit = threading.Thread(
            target=worker.submit, args=(late.pop(), 1, 3), kwargs={"wait": False}
        )
        submit.start()
        submit.join()
        condition.acquire()
        return False

    monkeypatch.setattr(condition, "wait", wait_too_long)
    worker.submit(first, 1, 3, wait=False)
    end = time.monotonic() + 5
    while not second.done and time.monotonic() < end:
        time.sleep(0.01)
    monkeypatch.undo()
    worker.close(cancel=True)
    assert token_ids(first) == token_ids(second) == [expected_ids([1, 2, 3], 4)]
