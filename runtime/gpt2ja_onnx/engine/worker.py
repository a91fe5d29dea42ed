"""The thread that runs an engine, so that callers of many threads share one batch."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from gpt2ja_onnx.errors import ClosedError, GenerationError

if TYPE_CHECKING:
    from gpt2ja_onnx.engine.engine import Engine
    from gpt2ja_onnx.engine.request import Request


class Worker:
    """Feeds requests to an engine and steps it, in a thread that starts with the first request."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._condition = threading.Condition()
        self._arrived: list[Request] = []
        self._closing = False
        self._thread: threading.Thread | None = None

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ClosedError: The worker was closed.
        """
        with self._condition:
            if self._closing:
                raise ClosedError("the model was closed and takes no further requests")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gpt2ja-onnx", daemon=True)
                self._thread.start()
            self._arrived.append(request)
            self._condition.notify()

    def close(self) -> None:
        """Take no further requests, finish those that were submitted, and end the thread."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        engine = self._engine
        while True:
            with self._condition:
                while engine.idle and not self._arrived and not self._closing:
                    self._condition.wait()
                arrived, self._arrived = self._arrived, []
            if engine.idle and not arrived:
                return
            try:
                for request in arrived:
                    engine.add(request)
                engine.step()
            except Exception as error:
                # Whatever it was, nobody may wait for ever, and the next request finds it clean.
                reason = str(error) or type(error).__name__
                failure = GenerationError(f"the engine failed: {reason}")
                failure.__cause__ = error
                for request in arrived:
                    request.fail(failure)
                engine.fail_all(failure)
