"""What is served now, and what answers under way began with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.config import Deployment
from server.decoding import Roster
from server.runtime import Runtime


@dataclass(frozen=True, eq=False)
class Served:
    """What requests are planned by, at one moment: they keep it as long as they run, whatever comes after.

    ``runtime`` is None until the models are loaded.
    """

    deployment: Deployment
    roster: Roster
    runtime: Runtime | None = None


class Succession:
    """One ``Served`` after the other; lives on the event loop. ``left`` is called when a request was the last of an earlier one.

    Attributes:
        now: what new requests are planned by.
    """

    def __init__(self, first: Served) -> None:
        self.now = first
        self.left: Callable[[], None] = lambda: None
        self._under_way: dict[Served, int] = {}

    def enter(self) -> Callable[[], None]:
        """A request begins, planned by ``now``; what it is given is to be called once, when it is over."""
        served = self.now
        self._under_way[served] = self._under_way.get(served, 0) + 1

        def leave() -> None:
            self._under_way[served] -= 1
            if self._under_way[served]:
                return
            del self._under_way[served]
            if served is not self.now:
                self.left()

        return leave

    def follow(self, served: Served) -> None:
        """From now on requests are planned by this."""
        self.now = served

    @property
    def members(self) -> frozenset[str]:
        """The members that requests under way, or requests to come, may read with."""
        return frozenset(name for served in (self.now, *self._under_way) for name in served.roster.members)
