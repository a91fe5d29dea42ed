"""The thread that runs an engine, so that callers of many threads share one batch."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING

from gpt2ja_onnx import log
from gpt2ja_onnx.engine.queue_limit import QueueLimit
from gpt2ja_onnx.errors import CancelledError, ClosedError, GenerationError

if TYPE_CHECKING:
    from gpt2ja_onnx.engine.engine import Engine
    from gpt2ja_onnx.engine.group import SequenceGroup
    from gpt2ja_onnx.engine.scoring import ScoringJob
    from gpt2ja_onnx.results import EngineStatistics

    Work = SequenceGroup | ScoringJob

# Seconds without work after which the cache is given back.
_IDLE_SECONDS = 1.0
_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


class Worker:
    """Feeds work to an engine and steps it, in a thread that starts with the first of it.

    A worker belongs to the process that made it: neither the thread nor onnxruntime's own survive
    a fork. At the end of the process what still runs is cancelled, and the thread is joined.

    Args:
        engine: The engine.
        max_waiting: Sequences that may wait.
        max_waiting_tokens: Prompt tokens that may wait.
    """

    def __init__(self, engine: Engine, *, max_waiting: int, max_waiting_tokens: int) -> None:
        self._engine = engine
        self._limit = QueueLimit(max_waiting, max_waiting_tokens)
        self._condition = threading.Condition()
        self._arrived: list[Work] = []
        self._closing = False
        self._cancelling = False
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._process = os.getpid()
        _workers.add(self)

    @property
    def waiting(self) -> tuple[int, int]:
        """Sequences and prompt tokens that wait now."""
        return self._limit.waiting

    def statistics(self) -> EngineStatistics:
        """What the engine does now and has done so far."""
        return self._engine.statistics(self.waiting)

    def submit(self, work: Work, sequences: int, tokens: int, *, wait: bool) -> None:
        """Queue work.

        Args:
            work: To be done.
            sequences: That wait with it.
            tokens: Of its prompt.
            wait: Wait while the queue is full.

        Raises:
            QueueFullError: The queue is full, and `wait` is not set.
            ClosedError: The worker was closed, or the process has forked.
            GenerationError: The thread cannot be started.
        """
        if os.getpid() != self._process:
            raise ClosedError(
                "the model was loaded before this process was forked, and its threads stayed "
                "behind; load it in the child, or start children with multiprocessing's 'spawn'"
            )
        work.permit = self._limit.enter(sequences, tokens, wait=wait)
        try:
            with self._condition:
                if self._closing:
                    raise ClosedError("the model was closed and takes no further requests")
                self._start()
                self._arrived.append(work)
                self._condition.notify()
        except BaseException:
            work.permit.release_all()
            raise

    def close(self, *, cancel: bool = False, wait: bool = True) -> None:
        """Take nothing more, and end the thread.

        Args:
            cancel: Cancel what was submitted instead of finishing it.
            wait: Wait for the thread's end.
        """
        if os.getpid() != self._process:
            return
        self._limit.close()
        with self._condition:
            self._closing = True
            self._cancelling |= cancel
            self._condition.notify()
        if wait and self._thread is not None and self._thread is not threading.current_thread():
            # Before Python 3.13, a join that Ctrl-C interrupts takes a running thread for ended,
            # and the next one returns at once.
            self._ended.wait()
            self._thread.join()

    def _start(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="gpt2ja-onnx", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise GenerationError(f"the engine's thread cannot be started: {error}") from error
        self._thread = thread

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._engine.close()
            self._ended.set()

    def _wanted(self) -> bool:
        """Whether there is something to do, or nothing more to wait for."""
        return bool(self._arrived) or self._closing or not self._engine.idle

    def _work(self) -> None:
        engine = self._engine
        while True:
            with self._condition:
                if not self._condition.wait_for(self._wanted, _IDLE_SECONDS):
                    engine.trim()
                    self._condition.wait_for(self._wanted)
                arrived, self._arrived = self._arrived, []
                cancelling = self._cancelling
            try:
                for work in arrived:
                    engine.add(work)
                if cancelling:
                    engine.fail_all(CancelledError("the request was cancelled: the model closes"))
                if engine.idle and not self._arrived and self._closing:
                    return
                engine.step()
            except Exception as error:
                # Whatever it was, nobody may wait for ever, and the next request finds it clean.
                reason = str(error) or type(error).__name__
                failure = GenerationError(f"the engine failed: {reason}")
                failure.__cause__ = error
                for work in arrived:
                    work.fail(failure)
                engine.fail_all(failure)
                with contextlib.suppress(Exception):  # a handler's error must not end the thread
                    log.error(str(failure), error)


def _leave_behind() -> None:
    """In the child of a fork: destroy nothing whose threads the child does not have.

    The destructors of onnxruntime, of its sessions and of the library itself at the end of the
    process, wait for their threads. So the workers are never released, and the process ends
    before the library's destructors run, with its exit status (glibc's ``on_exit``).
    """
    if not len(_workers):
        return
    import ctypes

    for worker in list(_workers):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(worker))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):
        libc.on_exit(libc._exit, None)


os.register_at_fork(after_in_child=_leave_behind)


@atexit.register
def _close_all() -> None:
    """Leave no thread inside onnxruntime when the interpreter goes."""
    for worker in list(_workers):
        done = False
        while not done:
            with contextlib.suppress(KeyboardInterrupt):  # it ends within a step anyway
                worker.close(cancel=True)
                done = True
