"""What is full first, by formulae.

Every resource has so much to do for one replica's share of the traffic, and can do so much. What every replica has of its own
(its engine, the thread its tokens are sent from, its cache) is as full with 1,000 replicas as with one. What is there once for
all of them is N times as full, unless there is more of it. The largest N is where it is full; the smallest of these is the first
bottleneck.

========================  =======================================================  ======================================
resource                  share in use with N replicas                             from
========================  =======================================================  ======================================
engine steps              throughput / capacity                                    the simulation
HTTP thread               tokens/s · token + requests/s · request                  measured beside the engine
cache                     blocks that answers hold / blocks                        the simulation
gateway                   N · (tokens/s · token + requests/s · request) / cores    measured at the gateway (``--costs``)
router                    N · requests/s · choice(N)                               measured, by policy and N
key limits                N · requests/s · request                                 measured at the actor (``--costs``)
metrics scrape            N · scrape / interval                                    measured
========================  =======================================================  ======================================
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from server.simulation.measured import Measured

CENTRAL = (
    "gateway_token_seconds",
    "gateway_request_seconds",
    "limit_request_seconds",
    "scrape_seconds",
)
"""Seconds that a file of costs may give; what nobody has measured is not guessed."""


@dataclass(frozen=True, slots=True)
class Share:
    """One replica's share of the traffic: output tokens and requests per second, and how much of its engine's time and of its
    cache these take."""

    tokens: float
    requests: float
    engine: float
    cache: float


@dataclass(frozen=True, slots=True)
class Central:
    """What is there once: ``gateway_cores`` that proxies may use, ``scrape_interval`` seconds between two readings of a replica's
    metrics by one reader."""

    gateway_cores: float = 1.0
    scrape_interval: float = 15.0


@dataclass(frozen=True, slots=True)
class Resource:
    """``use(N)``: the share in use with N replicas, 1 being all of it; None where it was not measured. ``why``: the formula."""

    name: str
    per_replica: bool
    use: Callable[[int], float] | None
    why: str

    def at(self, replicas: int) -> float | None:
        """The share in use; None: not measured."""
        return None if self.use is None else self.use(replicas)

    def most(self, limit: int = 10_000_000) -> float | None:
        """Replicas with which it is just not full; infinite where that does not depend on them, or beyond ``limit``; None: not
        measured."""
        if self.use is None:
            return None
        if self.use(1) > 1:
            return 0.0
        if self.per_replica or self.use(limit) <= 1:
            return math.inf
        low, high = 1, limit
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.use(middle) <= 1 else (low, middle)
        return float(low)


def resources(measured: Measured, share: Share, policy: str, central: Central) -> list[Resource]:
    """All of them, for this share of the traffic to each replica."""
    costs = measured.central
    gateway = _both(costs.get("gateway_token_seconds"), costs.get("gateway_request_seconds"))
    limits, scrape = costs.get("limit_request_seconds"), costs.get("scrape_seconds")
    choice = _choice(costs, policy)
    http = measured.server.of(share.tokens, share.requests)
    return [
        Resource("engine steps", True, lambda _: share.engine, "busy seconds a second"),
        Resource("HTTP thread", True, lambda _: http, "tokens/s · token + requests/s · request"),
        Resource("cache", True, lambda _: share.cache, "blocks held / blocks"),
        Resource(
            "gateway",
            False,
            None
            if gateway is None
            else lambda n: (
                n * (share.tokens * gateway[0] + share.requests * gateway[1]) / central.gateway_cores
            ),
            f"N · (tokens/s · token + requests/s · request) / {central.gateway_cores:g} cores",
        ),
        Resource(
            "router",
            False,
            None if choice is None else lambda n: n * share.requests * choice(n),
            "N · requests/s · choice(N)",
        ),
        Resource(
            "key limits",
            False,
            None if limits is None else lambda n: n * share.requests * limits,
            "N · requests/s · request",
        ),
        Resource(
            "metrics scrape",
            False,
            None if scrape is None else lambda n: n * scrape / central.scrape_interval,
            f"N · scrape / {central.scrape_interval:g} s",
        ),
    ]


def first(found: Sequence[Resource], replicas: int) -> Resource:
    """The fullest of those that were measured."""
    known = [resource for resource in found if resource.use is not None]
    return max(known, key=lambda resource: resource.at(replicas) or 0.0)


def _both(token: float | None, request: float | None) -> tuple[float, float] | None:
    return None if token is None or request is None else (token, request)


def _choice(costs: Mapping[str, float | None], policy: str) -> Callable[[int], float] | None:
    """Seconds of one choice among N: a line through those measured, which goes on beyond them."""
    points = sorted(
        (int(name.rsplit("_", 1)[1]), seconds)
        for name, seconds in costs.items()
        if name.startswith(f"route_{policy}_") and seconds is not None
    )
    if len(points) < 2:
        return None

    def seconds(replicas: int) -> float:
        place = next((i for i in range(1, len(points)) if replicas <= points[i][0]), len(points) - 1)
        (low, under), (high, over) = points[place - 1], points[place]
        return max(0.0, under + (over - under) * (replicas - low) / (high - low))

    return seconds
