"""Which replica gets a request. A policy sees how many requests each has under way, and the request; never its weights, since
keys and values do not depend on them.

``random``      any
``least``       one that has fewest under way; among equals any
``two``         of two at random, the one that has fewer (Ray Serve's own)
``session``     the session's, on a ring of hashes
``prefix``      the prompt's first tokens' on the ring; where that one has more than ``bound`` times what each would have if all
                had equally many, the next on the ring that has not (consistent hashing with bounded loads, Mirrokni et al. 2018)
``spill``       where the session began as long as a place is free there; it begins at its first choice by hash that has not much
                more to do than the others; where all have, one with fewest under way (as the gateway of ``genarm deploy ray``)
"""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from random import Random
from typing import Protocol

from server.simulation.request import Request

POINTS = 64
"""Places of a replica on the ring: shares of keys differ by some 1/sqrt(64) of each other."""

BOUND = 1.25
"""More than so many times the mean is too much for a replica."""

PREFIX_TOKENS = 128
"""Of a prompt, the tokens it is known by: those of the first chunk, less are never kept."""


SLACK = 16
"""A replica has much more to do than the others from ``places / SLACK`` requests over the mean, no less than ``LEAST_SLACK``."""

LEAST_SLACK = 2


class Router(Protocol):
    """Chooses replicas. ``loads``: requests under way at each."""

    def choose(self, request: Request, loads: Sequence[int]) -> int:
        """The replica's number."""


@dataclass(slots=True)
class AnyReplica:
    """Without a thought."""

    rng: Random

    def choose(self, request: Request, loads: Sequence[int]) -> int:  # noqa: ARG002
        """Any."""
        return self.rng.randrange(len(loads))


@dataclass(slots=True)
class LeastLoaded:
    """Where fewest are under way."""

    rng: Random

    def choose(self, request: Request, loads: Sequence[int]) -> int:  # noqa: ARG002
        """Any of those with fewest."""
        least = min(loads)
        if loads.count(least) == 1:
            return loads.index(least)
        return self.rng.choice([number for number, load in enumerate(loads) if load == least])


@dataclass(slots=True)
class TwoChoices:
    """The better of two."""

    rng: Random

    def choose(self, request: Request, loads: Sequence[int]) -> int:  # noqa: ARG002
        """The one with fewer of two different ones at random."""
        if len(loads) == 1:
            return 0
        one, other = self.rng.sample(range(len(loads)), 2)
        return one if loads[one] <= loads[other] else other


class Ring:
    """Replicas on a circle of hashes, each at ``POINTS`` places; a key belongs to the next place behind its own."""

    def __init__(self, replicas: int) -> None:
        places = sorted(
            (_hash(f"replica {number}/{point}"), number)
            for number in range(replicas)
            for point in range(POINTS)
        )
        self._hashes = [place for place, _ in places]
        self._owners = [number for _, number in places]

    def owner(self, key: str) -> int:
        """The replica of a key."""
        return self._owners[self._place(key)]

    def owner_that(self, key: str, fits: Callable[[int], bool]) -> int:
        """The first replica from the key's on that ``fits``; the key's own where none does."""
        start = self._place(key)
        for place in range(start, start + len(self._owners)):
            number = self._owners[place % len(self._owners)]
            if fits(number):
                return number
        return self._owners[start]

    def _place(self, key: str) -> int:
        return bisect_left(self._hashes, _hash(key)) % len(self._hashes)


@dataclass(slots=True)
class BySession:
    """A session stays where it is, whatever else is going on there."""

    ring: Ring

    def choose(self, request: Request, loads: Sequence[int]) -> int:  # noqa: ARG002
        """The session's."""
        return self.ring.owner(f"session {request.prompt.session}")


@dataclass(slots=True)
class ByPrefix:
    """Prompts that begin alike go to the same replica as long as that has not too much."""

    ring: Ring
    bound: float = BOUND
    tokens: int = PREFIX_TOKENS

    def choose(self, request: Request, loads: Sequence[int]) -> int:
        """The first on the ring that has less than ``bound`` times the mean, this request counted."""
        most = ceil(self.bound * (sum(loads) + 1) / len(loads))
        return self.ring.owner_that(self.key(request), lambda number: loads[number] < most)

    def key(self, request: Request) -> str:
        """What a prompt's first tokens are: those of a system's prompt, or of a session."""
        prompt = request.prompt
        if prompt.system_tokens >= self.tokens:
            return f"system {prompt.system}"
        return f"session {prompt.session}"


class Spilling:
    """Each session ranks the replicas in an order of its own, and is at home where its first request went.

    The rules are those of ``server/replicas/rendezvous.py``. Homes are never forgotten here; a gateway remembers some 65,000.

    Args:
        places: of a replica's batch.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._homes: dict[int, int] = {}

    def choose(self, request: Request, loads: Sequence[int]) -> int:
        """The session's home while it has a place free; else the session's first that has not much more to do than the others;
        else of those with fewest under way its first."""
        session = request.prompt.session
        home = self._homes.get(session)
        if home is not None and loads[home] < self._places:
            return home
        chosen = self._elsewhere(session, loads)
        self._homes.setdefault(session, chosen)
        return chosen

    def _elsewhere(self, session: int, loads: Sequence[int]) -> int:
        crowded = min(self._places, sum(loads) / len(loads) + max(LEAST_SLACK, self._places // SLACK))
        least = min(loads)
        most = crowded if least < crowded else least + 1
        return next(number for number in self.ranking(session, len(loads)) if loads[number] < most)

    def ranking(self, session: int, replicas: int) -> Iterator[int]:
        """All replicas in the session's order. A gateway sorts the hashes of key and replica; what comes of that is any order as
        likely as any other, and is drawn here as far as it is looked at (Fisher and Yates)."""
        rng = Random(f"ranking {session}")
        moved: dict[int, int] = {}
        for place in range(replicas):
            other = rng.randrange(place, replicas)
            yield moved.get(other, other)
            moved[other] = moved.get(place, place)


@dataclass(frozen=True, slots=True)
class Pool:
    """What is chosen from: so many ``replicas`` with so many ``places`` in the batch of each; ``seed`` of what is drawn."""

    replicas: int
    places: int
    seed: int = 0

    @property
    def rng(self) -> Random:
        """For policies that draw."""
        return Random(f"routing/{self.seed}")


POLICIES: Mapping[str, Callable[[Pool], Router]] = {
    "random": lambda pool: AnyReplica(pool.rng),
    "least": lambda pool: LeastLoaded(pool.rng),
    "two": lambda pool: TwoChoices(pool.rng),
    "session": lambda pool: BySession(Ring(pool.replicas)),
    "prefix": lambda pool: ByPrefix(Ring(pool.replicas)),
    "spill": lambda pool: Spilling(pool.places),
}
"""Name → what makes a router for a pool."""


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
