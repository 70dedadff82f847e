"""``genarm bench --only replicas`` and ``scaling``: a plain server beside one replica, and one replica beside two."""

import pytest

pytest.importorskip("ray.serve", reason="needs Ray: pip install 'genarm[ray]'")

from pathlib import Path

from server.bench.scenarios.replicas import replicas
from server.bench.scenarios.scaling import second_replica
from server.bench.setup import Limits, Setup
from server.bench.shapes import Models
from server.bench.workload import Workload
from server.simulation.bottleneck import CENTRAL

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]


def test_the_scenarios_measure_all_three(tmp_path: Path) -> None:
    ticks: list[int] = []
    workload = Workload(4, prompt=(4, 12), response=(6, 10))
    limits = Limits(peer_requests=1, quick=True)
    setup = Setup(Models("tiny", tmp_path), 1, workload, 1, lambda: ticks.append(1), limits)
    overhead, through, beside = replicas(setup)
    two = second_replica(setup)
    assert len(ticks) >= 4
    record = overhead.record()
    assert min(*record["our_ttfts"], *record["our_gaps"], *record["peer_ttfts"]) > 0
    assert [one.record()["name"] for one in (through, two)] == ["through Ray", "two replicas"]
    assert min(two.record()["our_rates"]) > 0
    costs = beside.record()["costs"]
    assert set(costs) < set(CENTRAL)
    # An event goes through Serve's proxy and the gateway: more than nothing, less than 50 ms of a core.
    assert 0 < costs["gateway_token_seconds"] + costs["gateway_request_seconds"] < 0.1
    assert 0 < costs["proxy_token_seconds"] + costs["proxy_request_seconds"] < 0.1
    assert 0 < costs["registry_call_seconds"] < 0.05
