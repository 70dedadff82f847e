"""What is served changes from one request to the next, never within one."""

import pytest

from server.api.served import Served, Succession
from server.config import RewardSettings, read_deployment
from server.decoding import Roster


@pytest.fixture
def first() -> Served:
    declared = {"model": "m", "base": {"model": "llm"}, "rewards": [{"name": "arm", "model": "a"}]}
    deployment = read_deployment(declared, "test")
    return Served(deployment, Roster.of(deployment))


def after(served: Served, version: int) -> Served:
    roster = served.roster.with_reward(RewardSettings(name="arm", model="b"), version)
    return Served(served.deployment, roster)


def test_members_are_needed_as_long_as_a_request_that_began_with_them_runs(first: Served) -> None:
    heard: list[frozenset[str]] = []
    line = Succession(first)
    line.left = lambda: heard.append(line.members)
    one, two = line.enter(), line.enter()
    line.follow(after(first, 2))
    third = line.enter()
    line.follow(after(line.now, 3))
    assert line.members == {"base", "arm", "arm#2", "arm#3"}
    third()
    one()
    assert heard == [{"base", "arm", "arm#3"}]
    two()
    assert heard[1:] == [{"base", "arm#3"}]
    last = line.enter()
    last()
    assert len(heard) == 2, "nothing changes while what is served is the same"
