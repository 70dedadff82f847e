"""What a request and a token ask for beside the engine's steps: in the server's process, and in the client's."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import httpx
import numpy as np

from server.bench.scale.cpu import beside_the_engine, thread_seconds
from server.bench.scale.playing import Served, play
from server.bench.service import Serving
from server.replicas.rendezvous import order
from server.simulation.measured import Work
from server.simulation.request import Request
from server.simulation.routing import POLICIES, AnyReplica, Pool
from server.simulation.traffic import Traffic, TrafficSettings, draw_crowd, draw_traffic

LONG, SHORT = 64, 4
"""Tokens of the answers whose CPU is compared."""

IDLE = 20
"""Requests, one after the other, to an idle server."""

SCRAPES = 20

FULL = 8
"""Places of a replica, where choices are timed: each has one free at least."""


@dataclass(frozen=True, slots=True)
class Overheads:
    """CPU beside the steps; ``first_token``: median seconds to the only token of a request of one chunk to an idle server."""

    server: Work
    client: Work
    first_token: float


def overheads(
    server: Serving,
    served: Served,
    settings: TrafficSettings,
    sessions: int,
    tick: Callable[[], object],
    threads: int = 1,
) -> Overheads:
    """Of one server with room for ``sessions`` requests side by side and so many torch ``threads``.

    All come at once and ask for short answers, then for long ones: what both need, over the requests and over the tokens they
    differ in. Nothing below 0.
    """
    flat = replace(settings, turns="1", message="16")
    play([server.url], served, _at_once(flat, SHORT, sessions), AnyReplica(Random(0)))  # warm
    tick()
    (short_server, short_client), (long_server, long_client) = (
        _cpu(server, served, _at_once(flat, length, sessions), threads) for length in (SHORT, LONG)
    )
    tick()
    return Overheads(
        _work(short_server, long_server, sessions),
        _work(short_client, long_client, sessions),
        first_token(server, served, flat),
    )


def _work(short: float, long: float, requests: int) -> Work:
    token = max(0.0, (long - short) / (requests * (LONG - SHORT)))
    return Work(token, max(0.0, short / requests - SHORT * token))


def _cpu(server: Serving, served: Served, traffic: Traffic, threads: int) -> tuple[float, float]:
    """CPU seconds of the traffic: of the server beside its engine, and ours."""
    before, ours = thread_seconds(server.pid), time.process_time()
    play([server.url], served, traffic, AnyReplica(Random(0)))
    # Prompts are written before the users come, by us: a few milliseconds that count as the requests'.
    used = beside_the_engine(before, thread_seconds(server.pid), threads)
    return used, time.process_time() - ours


def _at_once(settings: TrafficSettings, output: int, sessions: int) -> Traffic:
    return draw_crowd(replace(settings, output=str(output)), sessions, sessions, seed=output)


def first_token(server: Serving, served: Served, settings: TrafficSettings) -> float:
    """Median seconds from a request to its only token; each comes when the one before is over."""
    alone = replace(settings, system_tokens=0, message="8", output="1", guided=0.0)
    traffic = draw_crowd(alone, 1, 1, seed=1)
    waits = []
    for _ in range(IDLE):
        records = play([server.url], served, traffic, AnyReplica(Random(0))).records
        waits.append(float(np.nanmax(records.first - records.arrived)))
    return statistics.median(waits)


def scrape(server: Serving) -> tuple[float, float]:
    """Median seconds of reading /metrics, and its bytes."""
    seconds, size = [], 0
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        for _ in range(SCRAPES):
            started = time.perf_counter()
            size = len(client.get("/metrics").raise_for_status().content)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), float(size)


def routing_seconds(policy: str, replicas: int, requests: int = 200) -> float:
    """CPU seconds of one choice among so many replicas, each with some requests under way: for ``spill`` of the gateway's own
    order, for other policies of the simulation's."""
    asked = list(draw_traffic(TrafficSettings(), 1.0, requests, seed=0).requests())
    choose = _gateway(replicas) if policy == "spill" else _simulated(policy, replicas)
    started = time.thread_time()
    for request in asked:
        choose(request)
    return (time.thread_time() - started) / len(asked)


def _gateway(replicas: int) -> Callable[[Request], object]:
    """As ``genarm deploy ray`` chooses: the whole order, since whoever is first may not take the request."""
    loads = {f"replica-{number:08d}": number % FULL for number in range(replicas)}
    return lambda request: order(f"session-{request.prompt.session:056d}", loads, FULL)


def _simulated(policy: str, replicas: int) -> Callable[[Request], object]:
    router = POLICIES[policy](Pool(replicas, FULL))
    loads = [number % FULL for number in range(replicas)]
    return lambda request: router.choose(request, loads)
