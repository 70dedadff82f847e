"""Notices that a step does not come to its end: a process that is there, and says so, may hang all the same."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK = 1.0
"""Seconds between two looks; fewer where less than ten of them are to be waited."""


class Watch:
    """Looks, from a thread of its own, how long what is done in :meth:`over` takes.

    ``on_hang`` is called in that thread, once, when it has taken ``seconds``.
    """

    def __init__(self, seconds: float, on_hang: Callable[[], None]) -> None:
        self._every = min(LOOK, seconds / 10)
        self._most = seconds / self._every
        self._on_hang = on_hang
        self._done = threading.Event()
        self._under_way: object = None
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Nobody looks any more."""
        self._done.set()

    @contextmanager
    def over(self) -> Iterator[None]:
        """Something is done that has to end; by one thread at a time."""
        self._under_way = object()
        try:
            yield
        finally:
            self._under_way = None

    def _look(self) -> None:
        seen: object = None
        looks = 0  # not seconds: if the machine sleeps, so does whoever counts
        while not self._done.wait(self._every):
            now = self._under_way
            looks = looks + 1 if now is not None and now is seen else 0
            seen = now
            if looks >= self._most:
                self._on_hang()
                return
