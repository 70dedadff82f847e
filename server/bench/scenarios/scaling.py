"""What does a second replica on Ray give?"""

import time
from dataclasses import replace

from server.bench.client import stream_all
from server.bench.comparison import Comparison
from server.bench.scenarios.replicas import bodies_of
from server.bench.service import ray_server
from server.bench.setup import Setup


def second_replica(setup: Setup) -> Comparison:
    """One replica, two, two, one, each on a Ray of its own, one after the other: what Ray does for those that wait would be
    missing to those that work, and a machine that grows slower is slower for both. Of twice the workload a replica has places
    for a quarter, so that two are busy nearly to the end, too; each is filled once before the runs that count.
    """
    requests = 2 * setup.workload.requests
    setup = replace(setup, workload=replace(setup.workload, requests=requests))
    places = max(1, requests // 4)
    bodies = bodies_of(setup)
    tokens = sum(one["max_tokens"] for one in bodies)
    rates: dict[int, list[float]] = {1: [], 2: []}
    half = -(-setup.runs // 2)
    for count, runs in ((1, half), (2, half), (2, setup.runs - half), (1, setup.runs - half)):
        if not runs:
            continue
        with ray_server(setup, count, {"max_sequences": places}) as url:
            stream_all(url, bodies[: count * places])  # does not count
            setup.tick()
            for _ in range(runs):
                started = time.perf_counter()
                stream_all(url, bodies)
                rates[count].append(tokens / (time.perf_counter() - started))
                setup.tick()
    return Comparison("two replicas", "two replicas", "one replica", 1.5, tuple(rates[2]), tuple(rates[1]))
