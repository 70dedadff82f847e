"""What each API key has under way on which replica, as the replicas tell it; knows nothing of how they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

LEASE_SECONDS = 5.0
"""After which what a replica had counts no more, if it says nothing: it is dead."""


@dataclass(slots=True)
class _Holder:
    """What one replica has: by owner, the number of the message that said it last, and the places."""

    heard: float
    reported: int = 0
    places: dict[str, tuple[int, int]] = field(default_factory=dict)


class Leases:
    """How many places each owner has on each replica. ``clock``: seconds.

    Replicas number their messages, for they may come in another order than they were sent; each tells all that it has, so one
    that is lost does no lasting harm.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._holders: dict[str, _Holder] = {}

    def ask(self, replica: str, number: int, owner: str, held: int, most: int) -> bool:
        """Whether ``owner`` may have ``held`` places on this replica, with at most ``most`` on all; if so, it has them."""
        holder = self._holder(replica)
        elsewhere = sum(
            other.places.get(owner, (0, 0))[1] for other in self._holders.values() if other is not holder
        )
        if elsewhere + held > most:
            return False
        last = max(holder.reported, holder.places.get(owner, (0, 0))[0])
        if number > last:
            holder.places[owner] = (number, held)
        return True

    def report(self, replica: str, number: int, held: Mapping[str, int]) -> None:
        """All that this replica has, by owner."""
        holder = self._holder(replica)
        if number <= holder.reported:
            return
        holder.reported = number
        newer = {owner: said for owner, said in holder.places.items() if said[0] > number}
        holder.places = {owner: (number, places) for owner, places in held.items() if places} | newer

    @property
    def replicas(self) -> int:
        """Replicas that were heard of lately."""
        self._forget()
        return len(self._holders)

    def _holder(self, replica: str) -> _Holder:
        self._forget()
        holder = self._holders.setdefault(replica, _Holder(0.0))
        holder.heard = self._clock()
        return holder

    def _forget(self) -> None:
        oldest = self._clock() - LEASE_SECONDS
        for replica in [name for name, holder in self._holders.items() if holder.heard < oldest]:
            del self._holders[replica]
