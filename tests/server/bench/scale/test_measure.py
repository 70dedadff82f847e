"""Everything a simulation needs is measured in one go, here of tiny models: it is there, and goes to a file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from server.bench.scale.measure import Effort, measure, parts
from server.bench.setup import Setup
from server.simulation.limits import Limits
from server.simulation.measured import read_measured
from server.simulation.routing import POLICIES
from server.simulation.traffic import TrafficSettings

SETTINGS = TrafficSettings(
    turns="1-3", systems=2, system_tokens=140, message="3-20", output="4-12", longest=500
)


@pytest.mark.slow
def test_all_of_it(make_setup: Callable[..., Setup], ticks: list[int], tmp_path: Path) -> None:
    limits = Limits(64 * 60, max_sequences=4, max_queue=100)
    effort = Effort(steps=10, side_by_side=2, runs=1)
    measured = measure(make_setup(), SETTINGS, limits, effort, {"command": "a command"})
    assert len(ticks) == parts(limits, effort)
    assert measured.members == ("base", "reward0", "reward1")
    assert measured.classes == ("base", "rewards", "rewards")
    assert measured.stores == (0, 1, 1)  # rewards of one shape run in one forward, over the same slabs
    assert measured.beside[0] == 1.0 <= measured.beside[1]
    assert measured.server.token >= 0
    assert measured.client.token > 0
    assert measured.central["scrape_seconds"] > 0
    assert measured.central["gateway_token_seconds"] is None
    assert {f"route_{policy}_100" for policy in POLICIES} <= set(measured.central)
    assert 0 <= measured.about["off_cpu"] < 1
    measured.write(tmp_path / "measured.json")
    again = read_measured(tmp_path / "measured.json")
    assert again.errors().count == len(measured.checks)
    assert 0.5 < len(measured.checks) / len(measured.steps) < 2
