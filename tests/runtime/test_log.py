"""What is logged, and that a program that does not log neither sees it nor pays for it."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING

from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.engine.engine import Engine
from gpt2ja_onnx.engine.worker import Worker
from gpt2ja_onnx.errors import GenerationError
from tests.fakes import FakeSession, make_group

if TYPE_CHECKING:
    import pytest

NAME = "gpt2ja_onnx"


class BrokenHandler(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        raise OSError("the disk is full")


def run_into_failure() -> None:
    session = FakeSession()
    session.broken = True
    worker = Worker(Engine(session, max_rows=2), max_waiting=9, max_waiting_tokens=99)
    first, second = make_group([1, 2]), make_group([3])
    worker.submit(first, 1, 2, wait=True)
    first.channel.join()
    worker.submit(second, 1, 1, wait=True)
    worker.close()
    for group in (first, second):
        assert isinstance(group.error, GenerationError)


def test_an_opened_session_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, NAME), GPT2Ja.load(threads=2) as model:
        kernels = model.kernels
    record = caplog.records[-1]  # behind why native operators do not run, if they do not
    assert (record.name, record.levelname) == (NAME, "INFO")
    assert record.getMessage().startswith("opened ")
    assert record.getMessage().endswith(f"bundle: int8 on cpu with {kernels} kernels, 2 threads")


def test_a_failure_of_the_engine_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_into_failure()
    record, _ = caplog.records
    assert (record.name, record.levelname) == (NAME, "ERROR")
    assert record.getMessage() == "the engine failed: no memory left"
    assert record.exc_info is not None
    assert record.exc_info[0] is MemoryError


def test_a_failing_handler_does_not_end_the_engine() -> None:
    handler = BrokenHandler()
    logging.getLogger(NAME).addHandler(handler)
    try:
        run_into_failure()
    finally:
        logging.getLogger(NAME).removeHandler(handler)


def test_a_program_that_does_not_log_sees_nothing() -> None:
    code = """
import sys
from gpt2ja_onnx import GPT2Ja
GPT2Ja.load().close()
assert "logging" not in sys.modules
from tests.runtime.test_log import run_into_failure
run_into_failure()
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr == ""
