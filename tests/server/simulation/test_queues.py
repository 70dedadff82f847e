"""Queues whose waits are known: what a cluster of one place a replica has to come to."""

from collections.abc import Callable

import numpy as np
import pytest

from server.simulation.limits import Limits
from server.simulation.outcome import Outcome
from server.simulation.traffic import Traffic

Simulate = Callable[..., Outcome]
OneTurn = Callable[..., Traffic]

ONE_PLACE = Limits(64 * 1000, max_sequences=1, max_queue=1_000_000)
COUNT = 10_000
SEED = 6
"""Of arrivals whose waits, by Lindley's recursion, are within 3 % of the mean over all."""


def waits(outcome: Outcome, service: np.ndarray) -> float:
    """Mean seconds until an answer's first step began."""
    records = outcome.records
    return float(np.mean(records.ended - records.arrived - service))


def arrivals(rate: float, seed: int) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, COUNT))


@pytest.mark.parametrize("busy", [0.3, 0.6])
def test_one_server_with_equal_jobs_waits_as_pollaczek_and_khinchine_say(
    simulate: Simulate, one_turn: OneTurn, busy: float
) -> None:
    """M/D/1: ρ / (2 (1 − ρ)) service times."""
    traffic = one_turn(arrivals(busy, SEED), np.ones(COUNT))
    outcome = simulate(traffic, limits=ONE_PLACE)
    assert waits(outcome, np.ones(COUNT)) == pytest.approx(busy / (2 * (1 - busy)), rel=0.04)
    assert outcome.utilisation == pytest.approx(busy, rel=0.03)


@pytest.mark.parametrize("busy", [0.3, 0.6])
def test_one_server_with_exponential_jobs_waits_twice_as_long(
    simulate: Simulate, one_turn: OneTurn, busy: float
) -> None:
    """M/M/1: ρ / (1 − ρ) service times. A job is an answer of 200 tokens on average, which is as good as exponential."""
    tokens = np.ceil(np.random.default_rng([SEED, 2]).exponential(200, COUNT))
    traffic = one_turn(arrivals(busy, SEED), tokens)
    outcome = simulate(traffic, seconds=1 / 200, limits=ONE_PLACE)
    assert waits(outcome, tokens / 200) == pytest.approx(busy / (1 - busy), rel=0.04)


def test_several_replicas_behind_the_least_loaded_wait_less_than_behind_any(
    simulate: Simulate, one_turn: OneTurn
) -> None:
    traffic = one_turn(arrivals(0.5 * 4, 4)[:8000], np.ones(8000))
    waited = {
        policy: waits(simulate(traffic, 4, limits=ONE_PLACE, policy=policy), np.ones(8000))
        for policy in ("random", "two", "least")
    }
    assert waited["least"] < waited["two"] < waited["random"]
    # Each of four with a quarter of Poisson arrivals is M/D/1 again.
    assert waited["random"] == pytest.approx(0.5 / (2 * 0.5), rel=0.15)


@pytest.mark.parametrize("policy", ["random", "least", "two", "session", "prefix"])
def test_requests_under_way_are_arrivals_times_the_time_they_take(
    simulate: Simulate, one_turn: OneTurn, policy: str
) -> None:
    """Little's law, on the path: the area below the number under way is the sum of all times in the system."""
    rng = np.random.default_rng(5)
    traffic = one_turn(np.cumsum(rng.exponential(0.7, 2000)), rng.integers(1, 9, 2000), 40)
    outcome = simulate(traffic, 3, seconds=0.3, policy=policy)
    records = outcome.records
    assert outcome.counts.area == pytest.approx(float(np.sum(records.ended - records.arrived)))


def test_nobody_waits_at_a_replica_that_is_idle(simulate: Simulate, one_turn: OneTurn) -> None:
    """One place, one replica: it is busy from an arrival until it has caught up, so it ends when the jobs alone say."""
    rng = np.random.default_rng(6)
    starts, tokens = np.cumsum(rng.exponential(3.0, 500)), rng.integers(1, 6, 500)
    outcome = simulate(one_turn(starts, tokens), limits=ONE_PLACE)
    free, ends = 0.0, []
    for start, work in zip(starts, tokens, strict=True):
        free = max(free, start) + work
        ends.append(free)
    assert outcome.records.ended == pytest.approx(ends)
    assert outcome.counts.busy == pytest.approx(float(tokens.sum()))


def test_more_places_mean_shorter_waits_where_a_step_costs_the_same(
    simulate: Simulate, one_turn: OneTurn
) -> None:
    rng = np.random.default_rng(7)
    traffic = one_turn(np.cumsum(rng.exponential(2.0, 1500)), rng.integers(1, 12, 1500))
    p95 = [
        simulate(traffic, limits=Limits(64 * 1000, max_sequences=places, max_queue=10_000)).end_to_end().p95
        for places in (4, 8, 16)
    ]
    assert p95 == sorted(p95, reverse=True)
    assert p95[0] > p95[-1]
