"""Runs what a hostile form makes deep or long: on a large stack, and not for ever."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    _T = TypeVar("_T")

# llguidance recurses along chains of rules: some 3,000 fill 8 MiB, and a form has room for 17,000.
_STACK = 256 * 2**20
SECONDS = 10.0
_places = threading.BoundedSemaphore(2)  # those that never come to an end take no more
_starting = threading.Lock()


def run_bounded(function: Callable[[], _T]) -> _T:
    """Call a function in a thread of its own.

    Raises:
        TimeoutError: It takes longer than `SECONDS`, or others do and hold all places.
        RuntimeError: The thread cannot be started, or the function has panicked.
        Exception: What the function raises.
    """
    from concurrent.futures import Future  # brings logging, 3 to 7 ms

    if not _places.acquire(timeout=SECONDS):
        raise TimeoutError
    found: Future[_T] = Future()

    def work() -> None:
        try:
            found.set_result(function())
        except Exception as error:
            found.set_exception(error)
        except BaseException as error:  # a panic of a Rust library
            found.set_exception(RuntimeError(str(error)))
        finally:
            _places.release()

    with _starting:
        usual = threading.stack_size(_STACK)
        try:
            threading.Thread(target=work, name="gpt2ja-onnx-form", daemon=True).start()
        except RuntimeError:
            _places.release()
            raise
        finally:
            threading.stack_size(usual)
    return found.result(SECONDS)
