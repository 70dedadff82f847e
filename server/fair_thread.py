"""One thread that works for several owners in turn."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

MOST_REST = 0.25
"""Seconds of one rest: after long work the engine has caught up by then, and others wait."""


class FairThread:
    """Does one piece of work after the other: for each owner in the order in which it asks, and one for each owner in turn.

    So one that asks for much holds another up by one piece at most. ``name`` is the thread's. After each piece it rests ``rest``
    times as long as that took of the processor, ``MOST_REST`` at most: a thread of Python that always has something to do leaves
    the engine's, which gives the interpreter away several hundred times in a step, next to nothing.
    """

    def __init__(self, name: str, rest: float = 1.0) -> None:
        self._rest = rest
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._lock = threading.Lock()
        # Owners that wait, whose turn it is first.
        self._lanes: OrderedDict[str, deque[tuple[Future[Any], Callable[[], Any]]]] = OrderedDict()

    def submit(self, work: Callable[[], T], owner: str = "") -> Future[T]:
        """The result of ``work()``, or what it raised.

        Raises:
            RuntimeError: the thread was stopped.
        """
        future: Future[T] = Future()
        with self._lock:
            self._executor.submit(self._serve)
            self._lanes.setdefault(owner, deque()).append((future, work))
        return future

    def waiting(self, owner: str) -> int:
        """Pieces of work of ``owner`` that have not begun."""
        with self._lock:
            return len(self._lanes.get(owner, ()))

    def stop(self) -> None:
        """Drops what has not begun; returns at once."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            dropped = [future for lane in self._lanes.values() for future, _ in lane]
            self._lanes.clear()
        for future in dropped:
            future.cancel()

    def _serve(self) -> None:
        """The next piece of work; called once for each."""
        with self._lock:
            if not self._lanes:
                return  # stopped
            owner, lane = next(iter(self._lanes.items()))
            future, work = lane.popleft()
            if lane:
                self._lanes.move_to_end(owner)
            else:
                del self._lanes[owner]
        if not future.set_running_or_notify_cancel():
            return
        began = time.thread_time()
        try:
            result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        time.sleep(min(self._rest * (time.thread_time() - began), MOST_REST))
