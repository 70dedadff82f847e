"""Everybody comes once and ends once; steps taken together are the steps one by one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from server.simulation.cost import StepCost
from server.simulation.host import Host
from server.simulation.limits import Limits
from server.simulation.outcome import Outcome, Window
from server.simulation.traffic import Traffic, TrafficSettings, draw_crowd, draw_traffic

Simulate = Callable[..., Outcome]
OneTurn = Callable[..., Traffic]

SETTINGS = TrafficSettings(systems=3, system_tokens=150, output="1-200", think="exponential:4", guided=0.6)
ROOMY = Limits(64 * 400, max_sequences=8, max_queue=500)
TIGHT = Limits(64 * 60, max_sequences=8, max_queue=500, prefix_share=0.4)
FEW = Limits(64 * 400, max_sequences=2, max_queue=1)


@pytest.mark.parametrize("cache", ["slabs", "pages"])
@pytest.mark.parametrize("limits", [ROOMY, TIGHT, FEW])
@pytest.mark.parametrize("policy", ["least", "prefix"])
def test_steps_together_are_the_steps_one_by_one(
    simulate: Simulate, real_cost: StepCost, limits: Limits, policy: str, cache: str
) -> None:
    settings = replace(SETTINGS, longest=900)
    traffic = draw_traffic(settings, 2.0, 150, seed=4)
    window = Window(10.0, 50.0)
    limits = replace(limits, cache=cache)  # type: ignore[arg-type]
    fast, slow = (
        simulate(traffic, 2, cost=real_cost, limits=limits, policy=policy, together=together, window=window)
        for together in (True, False)
    )
    assert fast.counts.planned < 0.7 * slow.counts.planned
    for name in ("steps", "preemptions", "prompt_tokens", "cached_tokens", "window_tokens"):
        assert getattr(fast.counts, name) == getattr(slow.counts, name), name
    for name in ("busy", "usage", "area"):
        assert getattr(fast.counts, name) == pytest.approx(getattr(slow.counts, name)), name
    for name in ("arrived", "first", "ended"):
        expected = getattr(slow.records, name)
        np.testing.assert_allclose(getattr(fast.records, name), expected, rtol=1e-9, atol=1e-9)
    assert fast.records.replica.tolist() == slow.records.replica.tolist()
    assert fast.records.cached.tolist() == slow.records.cached.tolist()
    assert len(fast.gaps) == len(slow.gaps)
    assert fast.between().p95 == pytest.approx(slow.between().p95, rel=0.03)
    assert fast.seconds == pytest.approx(slow.seconds)


@pytest.mark.parametrize("limits", [ROOMY, TIGHT, FEW])
def test_every_request_comes_once_and_ends_once(
    simulate: Simulate, real_cost: StepCost, limits: Limits
) -> None:
    traffic = draw_traffic(replace(SETTINGS, longest=900), 3.0, 300, seed=5)
    outcome = simulate(traffic, 2, cost=real_cost, limits=limits, policy="two")
    records = outcome.records
    assert outcome.completed + outcome.refused + outcome.unsent == len(traffic)
    answered = np.isfinite(records.ended)
    assert not np.any(answered & records.refused)
    assert records.tokens[answered].tolist() == np.array(traffic.outputs)[answered].tolist()
    assert records.tokens[~answered].sum() == 0
    assert outcome.counts.window_tokens == outcome.tokens
    assert len(outcome.gaps) == outcome.tokens - outcome.completed
    assert np.all(records.first[answered] > records.arrived[answered])
    assert np.all(records.ended[answered] >= records.first[answered])
    asked = np.array([request.prompt.tokens for request in traffic.requests()])
    assert outcome.counts.prompt_tokens == asked[answered].sum()
    assert np.all(records.cached < asked)
    if limits is FEW:
        assert outcome.refused > 0
    if limits is TIGHT:
        assert outcome.counts.preemptions > 0


def test_a_session_goes_on_when_its_reader_has_thought(simulate: Simulate, real_cost: StepCost) -> None:
    traffic = draw_traffic(SETTINGS, 1.0, 60, seed=6)
    records = simulate(traffic, cost=real_cost, limits=ROOMY).records
    for session, count in enumerate(traffic.counts):
        first = traffic.first[session]
        assert records.arrived[first] == traffic.starts[session]
        for turn in range(1, count):
            thought = records.arrived[first + turn] - records.ended[first + turn - 1]
            assert thought == pytest.approx(traffic.think(session, turn))


def test_who_is_refused_does_not_come_again(simulate: Simulate, one_turn: OneTurn) -> None:
    traffic = one_turn([0.0, 0.1, 0.2, 0.3], [5, 5, 5, 5])
    limits = Limits(64 * 10, max_sequences=1, max_queue=1)
    outcome = simulate(traffic, limits=limits)
    assert outcome.records.refused.tolist() == [False, False, True, True]
    assert outcome.records.ended[:2].tolist() == [5.0, 10.0]


def test_one_who_comes_while_alike_steps_are_taken_starts_with_the_next(
    simulate: Simulate, one_turn: OneTurn
) -> None:
    outcome = simulate(one_turn([0.0, 2.5, 4.0], [50, 1, 1]))
    assert outcome.records.first.tolist() == [1.0, 4.0, 5.0]
    assert outcome.records.ended.tolist() == [50.0, 4.0, 5.0]


def test_a_crowd_is_as_large_as_it_is_said_to_be(simulate: Simulate, real_cost: StepCost) -> None:
    traffic = draw_crowd(SETTINGS, 6, 120, seed=7)
    outcome = simulate(traffic, cost=real_cost, limits=ROOMY)
    assert outcome.completed == len(traffic)
    moments = np.sort(outcome.records.arrived)[10:-40]
    under_way = [
        int(np.sum((outcome.records.arrived <= now) & (outcome.records.ended > now))) for now in moments
    ]
    assert set(under_way) == {6}


def test_the_same_seed_gives_the_same(simulate: Simulate, real_cost: StepCost) -> None:
    one, other = (
        simulate(draw_traffic(SETTINGS, 2.0, 80, seed=8), 3, cost=real_cost, limits=ROOMY, policy="two")
        for _ in range(2)
    )
    assert one.summary() == other.summary()
    another = simulate(draw_traffic(SETTINGS, 2.0, 80, seed=9), 3, cost=real_cost, limits=ROOMY, policy="two")
    assert another.summary() != one.summary()


def test_a_replica_that_is_twice_as_slow_serves_half_as_much(simulate: Simulate, real_cost: StepCost) -> None:
    traffic = draw_crowd(SETTINGS, 8, 150, seed=10)
    rates = [
        simulate(traffic, cost=real_cost.scaled(factor), limits=ROOMY).throughput for factor in (1.0, 2.0)
    ]
    assert rates[0] == pytest.approx(2 * rates[1])


def test_guided_traffic_costs_more(simulate: Simulate, real_cost: StepCost) -> None:
    rates = [
        simulate(
            draw_crowd(replace(SETTINGS, guided=guided), 8, 150, seed=11), cost=real_cost, limits=ROOMY
        ).throughput
        for guided in (0.0, 0.5, 1.0)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]


def test_neighbours_slow_each_other_only_while_both_are_busy(simulate: Simulate, one_turn: OneTurn) -> None:
    host = Host(2, None, (1.0, 1.5))
    router = _Alternately()
    outcome = simulate(one_turn([0.0, 0.0], [4, 2]), 2, host=host, router=router)
    # The first step of the first begins before the second is there; the second's two take 3 s; from then on it is alone.
    assert outcome.records.ended.tolist() == [1.0 + 1.5 + 1.5 + 1.0, 3.0]


def test_a_request_takes_its_time_to_the_engine(simulate: Simulate, one_turn: OneTurn) -> None:
    outcome = simulate(one_turn([1.0], [2]), host=Host(arrival_seconds=0.25))
    assert outcome.records.first[0] == 2.25


def test_a_request_for_which_there_is_no_room_is_an_error(simulate: Simulate, one_turn: OneTurn) -> None:
    with pytest.raises(ValueError, match="there is room for 512"):
        simulate(one_turn([0.0], [600], 200), limits=Limits(64 * 10))


class _Alternately:
    """To each in turn."""

    def __init__(self) -> None:
        self._next = -1

    def choose(self, request: object, loads: list[int]) -> int:  # noqa: ARG002
        self._next = (self._next + 1) % len(loads)
        return self._next
