"""Beginnings that many ask for at once: what they have in common is soon kept everywhere, and what they say next is not."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.replicas.affinity import ANYWHERE, Likeness

CROWD_SECONDS = 600.0
"""For so long a crowd counts as one after it was last seen: conversations do not move each time that it grows or shrinks."""


class Crowds:
    """Says by which key a request goes to a replica: all of one beginning to one, unless they are a crowd; then each conversation
    to its own. Lives on one event loop.

    Args:
        many: more requests of one beginning under way at once are a crowd.
        clock: seconds.
    """

    def __init__(self, many: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._many = many
        self._clock = clock
        self._under_way: Counter[str] = Counter()
        self._until: dict[str, float] = {}  # by beginning, when a crowd is none any more

    @contextmanager
    def joined(self, likeness: Likeness) -> Iterator[str]:
        """The key of a request that is under way inside."""
        beginning = likeness.beginning
        if beginning == ANYWHERE:
            yield ANYWHERE
            return
        self._under_way[beginning] += 1
        try:
            yield likeness.conversation if self._is_crowd(beginning) else beginning
        finally:
            self._under_way[beginning] -= 1
            if not self._under_way[beginning]:
                del self._under_way[beginning]

    def _is_crowd(self, beginning: str) -> bool:
        now = self._clock()
        if self._under_way[beginning] > self._many:
            if beginning not in self._until:
                self._until = {one: until for one, until in self._until.items() if until > now}
            self._until[beginning] = now + CROWD_SECONDS
        return self._until.get(beginning, now) > now
