"""What is full first, by formulae.

Every resource has so much to do for one replica's share of the traffic, and can do so much. What every replica has of its own
(its engine, the thread its tokens are sent from, its cache, Serve's proxy on its node) is as full with 1,000 replicas as with
one. What is there once for all of them is N times as full, unless there is more of it. The largest N is where it is full; the
smallest of these is the first bottleneck.

========================  =======================================================  ======================================
resource                  share in use with N replicas                             from
========================  =======================================================  ======================================
engine steps              throughput / capacity                                    the simulation
HTTP thread               tokens/s · token + requests/s · request                  measured beside the engine
cache                     blocks that answers hold / blocks                        the simulation
proxy                     tokens/s · token + requests/s · request                  measured there (``--costs``)
gateways                  N · (tokens/s · token + requests/s · (request +          measured there (``--costs``)
                          choice(N))) / gateways
choice of a replica       N · requests/s · choice(N) / gateways                    measured, by policy and N
registry                  N · (1 / interval + 2 · requests/s) · call               measured there (``--costs``)
metrics scrape            N · scrape / interval                                    measured
========================  =======================================================  ======================================
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from server.simulation.measured import Measured, Work

CENTRAL = (
    "gateway_token_seconds",
    "gateway_request_seconds",
    "proxy_token_seconds",
    "proxy_request_seconds",
    "registry_call_seconds",
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
    """What is there once: ``gateways``, processes of one thread each, which choose replicas too; ``scrape_interval`` seconds
    between two readings of a replica's metrics by one reader; ``report_interval`` seconds between two reports of a replica to the
    registry, which hears twice of each request besides, where all keys are bounded."""

    gateways: int = 1
    scrape_interval: float = 15.0
    report_interval: float = 1.0


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
    http = measured.server.of(share.tokens, share.requests)
    proxy = _work(costs, "proxy")
    choice = _choice(costs, policy)
    scrape = costs.get("scrape_seconds")
    return [
        Resource("engine steps", True, lambda _: share.engine, "tokens/s over capacity"),
        Resource("HTTP thread", True, lambda _: http, "tokens/s · token + requests/s · request"),
        Resource("cache", True, lambda _: share.cache, "blocks held / blocks"),
        Resource(
            "proxy",
            True,
            None if proxy is None else lambda _: proxy.of(share.tokens, share.requests),
            "tokens/s · token + requests/s · request",
        ),
        _gateways(_work(costs, "gateway"), choice, share, central),
        Resource(
            "choice of a replica",
            False,
            None if choice is None else lambda n: n * share.requests * choice(n) / central.gateways,
            f"N · requests/s · choice(N) / {central.gateways}",
        ),
        _registry(costs.get("registry_call_seconds"), share, central),
        Resource(
            "metrics scrape",
            False,
            None if scrape is None else lambda n: n * scrape / central.scrape_interval,
            f"N · scrape / {central.scrape_interval:g} s",
        ),
    ]


def _gateways(
    work: Work | None, choice: Callable[[int], float] | None, share: Share, central: Central
) -> Resource:
    """What they do for requests and tokens, and their choices of a replica."""
    use: Callable[[int], float] | None = None
    if work is not None and choice is not None:
        own, choose = work.of(share.tokens, share.requests), choice

        def use(replicas: int) -> float:
            return replicas * (own + share.requests * choose(replicas)) / central.gateways

    why = f"N · (tokens/s · token + requests/s · (request + choice(N))) / {central.gateways}"
    return Resource("gateways", False, use, why)


def _registry(call: float | None, share: Share, central: Central) -> Resource:
    calls = 1 / central.report_interval + 2 * share.requests
    return Resource(
        "registry",
        False,
        None if call is None else lambda n: n * calls * call,
        f"N · (1 / {central.report_interval:g} s + 2 · requests/s) · call",
    )


def first(found: Sequence[Resource], replicas: int) -> Resource:
    """The fullest of those that were measured."""
    known = [resource for resource in found if resource.use is not None]
    return max(known, key=lambda resource: resource.at(replicas) or 0.0)


def _work(costs: Mapping[str, float | None], name: str) -> Work | None:
    token, request = costs.get(f"{name}_token_seconds"), costs.get(f"{name}_request_seconds")
    return None if token is None or request is None else Work(token, request)


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
