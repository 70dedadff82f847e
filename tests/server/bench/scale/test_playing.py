"""Simulated users before real servers: everybody is answered whole, by the policy's replica, and cores are accounted for."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict

import numpy as np
import pytest

from server.bench.scale.overheads import overheads, scrape
from server.bench.scale.playing import Served, play
from server.bench.service import Serving, running_replica
from server.bench.setup import Setup
from server.simulation.limits import Limits
from server.simulation.routing import POLICIES, Pool
from server.simulation.traffic import TrafficSettings, draw_traffic

SETTINGS = TrafficSettings(
    turns="1-3", systems=2, system_tokens=140, message="3-20", output="2-12", think="0.05", longest=300
)


pytestmark = pytest.mark.slow  # two servers are started


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Serving], Served]]:
    """Two servers of tiny models with four places each."""
    from server.bench.shapes import SHAPES, Models
    from server.bench.workload import Workload

    setup = Setup(Models("tiny", tmp_path_factory.mktemp("models")), 2, Workload(4), 1, lambda: None)
    limits = Limits(64 * 40, max_sequences=4, max_queue=200)
    engine = {key: asdict(limits)[key] for key in ("kv_tokens", "max_sequences", "prefix_share")}
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running_replica(setup, engine, max_queue=limits.max_queue)) for _ in range(2)
        ]
        yield servers, Served(setup.rewards, SHAPES["tiny"][0].vocab)


def test_everybody_is_answered_whole(replicas: tuple[list[Serving], Served]) -> None:
    servers, served = replicas
    traffic = draw_traffic(SETTINGS, 40.0, 40, seed=1)
    ticks: list[int] = []
    outcome = play(
        [server.url for server in servers],
        served,
        traffic,
        POLICIES["session"](Pool(2, 4)),
        lambda: ticks.append(1),
    )
    records = outcome.records
    assert outcome.completed == len(ticks) == len(traffic)
    assert outcome.refused == outcome.unsent == 0
    assert records.tokens.tolist() == traffic.outputs
    assert np.all(records.first >= records.arrived)
    assert np.all(records.ended >= records.first)
    assert set(records.replica.tolist()) == {0, 1}
    assert len(outcome.gaps) == outcome.tokens - outcome.completed
    for session, count in enumerate(traffic.counts):
        first = traffic.first[session]
        assert len(set(records.replica[first : first + count].tolist())) == 1


def test_cores_are_accounted_for(replicas: tuple[list[Serving], Served]) -> None:
    servers, served = replicas
    found = overheads(servers[0], served, SETTINGS, 8, lambda: None)
    assert found.first_token > 0
    # A token is a few lines of JSON: microseconds to a millisecond on either side.
    assert 0 < found.client.token < 0.05
    assert 0 <= found.server.token < 0.05
    assert found.server.request + found.client.request > 0
    seconds, size = scrape(servers[0])
    assert seconds > 0
    assert size > 1000
