"""Hands over what the engine's thread makes, to threads and to tasks of event loops."""

from __future__ import annotations

import functools
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

T = TypeVar("T")
_alarms: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Alarm] = weakref.WeakKeyDictionary()


class Channel(Generic[T]):
    """Items in the order in which they were put, and then the end.

    One side puts and closes, any number of threads and tasks read and wait. No thread is spent on
    those who wait: each leaves a call that wakes it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: deque[T] = deque()
        self._closed = False
        self._readers: list[Callable[[], object]] = []
        self._joiners: list[Callable[[], object]] = []

    @property
    def closed(self) -> bool:
        """Whether nothing more will be put."""
        return self._closed

    def put(self, item: T) -> None:
        """Hand over an item."""
        self._items.append(item)
        # Who reads looks again after it has left its call, so none is missed without the lock.
        if self._readers:
            with self._lock:
                woken, self._readers = self._readers, []
            _wake(woken)

    def close(self) -> None:
        """Say that nothing more comes; closing twice is fine."""
        with self._lock:
            self._closed = True
            woken = self._readers + self._joiners
            self._readers, self._joiners = [], []
        _wake(woken)

    def get(self) -> T | None:
        """Wait for the next item, and take it; None at the end."""
        while True:
            with self._lock:
                if self._items:
                    return self._items.popleft()
                if self._closed:
                    return None
                gate = _gate()
                self._readers.append(gate.release)
                if self._items:
                    continue
            gate.acquire()

    async def aget(self) -> T | None:
        """`get` for asyncio."""
        while True:
            with self._lock:
                if self._items:
                    return self._items.popleft()
                if self._closed:
                    return None
                future = _future(self._readers)
                if self._items:
                    continue
            await future

    async def aget_all(self) -> list[T]:
        """Wait for items, and take all there are, in asyncio; none at the end."""
        while True:
            with self._lock:
                if self._items:
                    taken = list(self._items)
                    self._items.clear()
                    return taken
                if self._closed:
                    return []
                future = _future(self._readers)
                if self._items:
                    continue
            await future

    def join(self) -> None:
        """Wait for the end."""
        with self._lock:
            if self._closed:
                return
            gate = _gate()
            self._joiners.append(gate.release)
        gate.acquire()

    async def ajoin(self) -> None:
        """`join` for asyncio."""
        with self._lock:
            if self._closed:
                return
            future = _future(self._joiners)
        await future


def _gate() -> threading.Lock:
    """A lock that is held; who waits for it is woken by its release, and by signals."""
    gate = threading.Lock()
    gate.acquire()
    return gate


def _future(wakers: list[Callable[[], object]]) -> asyncio.Future[None]:
    """A future of the running loop, that a call left among `wakers` resolves."""
    import asyncio  # takes 40 ms, which most programs of one prompt need not spend

    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    alarm = _alarms.get(loop)
    if alarm is None:
        alarm = _alarms.setdefault(loop, _Alarm(loop))
    wakers.append(functools.partial(alarm.ring, future))
    return future


class _Alarm:
    """Resolves futures of one loop from other threads, those of one step of the engine together.

    Waking a loop costs a system call, and hands the interpreter over: once a step, not a row.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._futures: deque[asyncio.Future[None]] = deque()
        self._ringing = False

    def ring(self, future: asyncio.Future[None]) -> None:
        """Resolve a future soon."""
        self._futures.append(future)
        loop = self._loop()
        if not self._ringing and loop is not None:
            self._ringing = True
            try:
                loop.call_soon_threadsafe(self._resolve)
            except RuntimeError:  # the loop was closed meanwhile
                self._ringing = False

    def _resolve(self) -> None:
        self._ringing = False  # first, so that whatever comes from here on rings again
        while self._futures:
            future = self._futures.popleft()
            if not future.done():  # it may have been cancelled
                future.set_result(None)


def _wake(wakers: list[Callable[[], object]]) -> None:
    for wake in wakers:
        wake()
