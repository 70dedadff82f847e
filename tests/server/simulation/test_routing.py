"""Who goes where: stickiness, balance, bounds, and what a policy does for kept prompts, told by enumeration."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil

import numpy as np
import pytest

from server.replicas.homes import Homes
from server.replicas.rendezvous import order, ranked
from server.simulation.cost import StepCost
from server.simulation.limits import Limits
from server.simulation.outcome import Outcome
from server.simulation.request import Prompt, Request
from server.simulation.routing import BOUND, POLICIES, ByPrefix, Pool, Ring, Spilling
from server.simulation.traffic import TrafficSettings, draw_traffic


def request(session: int, system: int = 0, system_tokens: int = 0, number: int = 0) -> Request:
    return Request(number, Prompt(system, system_tokens, session, system_tokens + 50), 10, (0,))


@pytest.mark.parametrize("policy", list(POLICIES))
def test_a_choice_is_a_replica_and_the_same_for_the_same_seed(policy: str) -> None:
    choices = []
    for _ in range(2):
        router = POLICIES[policy](Pool(5, 4, 3))
        choices.append([router.choose(request(session), [1, 2, 0, 4, 0]) for session in range(50)])
    assert choices[0] == choices[1]
    assert set(choices[0]) <= set(range(5))
    assert POLICIES[policy](Pool(1, 4, 0)).choose(request(0), [7]) == 0


def test_the_least_loaded_is_one_with_fewest() -> None:
    router = POLICIES["least"](Pool(4, 4, 0))
    assert Counter(router.choose(request(n), [3, 1, 2, 1]) for n in range(200)).keys() == {1, 3}
    assert router.choose(request(0), [3, 1, 2, 2]) == 1


def test_of_two_the_better_one_and_never_the_worst_of_all() -> None:
    router = POLICIES["two"](Pool(3, 4, 0))
    chosen = Counter(router.choose(request(n), [0, 1, 2]) for n in range(900))
    # Pairs {0,1} and {0,2} choose 0, {1,2} chooses 1.
    assert chosen[2] == 0
    assert chosen[0] == pytest.approx(600, rel=0.1)


def test_a_session_stays_whatever_goes_on() -> None:
    router = POLICIES["session"](Pool(6, 4, 0))
    for session in range(30):
        assert len({router.choose(request(session), [load] * 6) for load in (0, 5, 100)}) == 1


def test_sessions_are_spread_over_all() -> None:
    router = POLICIES["session"](Pool(8, 4, 0))
    counts = Counter(router.choose(request(session), [0] * 8) for session in range(8000))
    assert len(counts) == 8
    assert max(counts.values()) < 1.6 * 1000


def test_one_replica_more_moves_only_what_goes_to_it() -> None:
    before, after = Ring(8), Ring(9)
    moved = [(before.owner(str(key)), after.owner(str(key))) for key in range(3000)]
    assert all(old == new or new == 8 for old, new in moved)
    assert sum(old != new for old, new in moved) / 3000 == pytest.approx(1 / 9, abs=0.06)


def test_prompts_that_begin_alike_go_together_where_there_is_room() -> None:
    router = POLICIES["prefix"](Pool(6, 4, 0))
    same = {router.choose(request(session, system=2, system_tokens=200), [0] * 6) for session in range(40)}
    assert len(same) == 1
    # A system's prompt that is no longer than what prompts are known by says nothing.
    apart = {router.choose(request(session, system=2, system_tokens=64), [0] * 6) for session in range(40)}
    assert len(apart) > 1


def test_no_replica_gets_more_than_its_bound() -> None:
    router = ByPrefix(Ring(5))
    loads = [0] * 5
    for session in range(200):
        loads[router.choose(request(session, system=1, system_tokens=200), loads)] += 1
        assert max(loads) <= ceil(BOUND * sum(loads) / 5)
    assert sum(load > 0 for load in loads) >= 5 / BOUND


def test_a_session_stays_where_it_began_as_long_as_a_place_is_free() -> None:
    for session in range(20):
        router, ranks = Spilling(4), list(Spilling(4).ranking(session, 6))
        loads = [1] * 6
        assert router.choose(request(session), loads) == ranks[0]
        loads[ranks[0]] = 3  # many more than the others, but a place is free
        assert router.choose(request(session), loads) == ranks[0]
        loads[ranks[0]] = 4
        assert router.choose(request(session), loads) == ranks[1]
        loads[ranks[0]] = 3
        assert router.choose(request(session), loads) == ranks[0]  # it is at home there still


def test_a_session_begins_where_there_is_not_much_more_to_do_than_elsewhere() -> None:
    for session in range(20):
        ranks = list(Spilling(32).ranking(session, 6))
        loads = [1] * 6
        loads[ranks[0]] = 7  # the mean is 2, and two more are much
        assert Spilling(32).choose(request(session), loads) == ranks[1]
        loads[ranks[0]] = 3
        assert Spilling(32).choose(request(session), loads) == ranks[0]
        # No place is free anywhere: it waits where fewest do.
        loads = [49] * 6
        loads[2] = loads[5] = 45
        assert Spilling(32).choose(request(session), loads) == next(n for n in ranks if n in (2, 5))


def test_it_chooses_as_the_gateway_does() -> None:
    class Hashed(Spilling):
        """With the gateway's own order of preference."""

        def ranking(self, session: int, replicas: int) -> Iterator[int]:
            return map(int, ranked(f"session {session}", [str(number) for number in range(replicas)]))

    for places, most in ((4, 6), (32, 12), (40, 60)):
        rng = random.Random(places)
        router, homes = Hashed(places), Homes()
        for _ in range(500):
            session = rng.randrange(60)
            loads = [rng.randrange(most) for _ in range(7)]
            named = {str(number): load for number, load in enumerate(loads)}
            key = f"session {session}"
            first = order(key, named, places, homes.of(key))[0]
            if homes.of(key) is None:
                homes.settle(key, first)
            assert router.choose(request(session), loads) == int(first)


def test_sessions_rank_replicas_in_every_order_alike() -> None:
    firsts = Counter(next(Spilling(4).ranking(session, 5)) for session in range(5000))
    assert firsts == pytest.approx(dict.fromkeys(range(5), 1000), rel=0.1)
    seconds = Counter(list(Spilling(4).ranking(session, 5))[1] for session in range(2000))
    assert seconds == pytest.approx(dict.fromkeys(range(5), 400), rel=0.2)


def test_sessions_find_their_prompts_as_often_as_enumeration_says(
    simulate: Callable[..., Outcome], real_cost: StepCost
) -> None:
    """Nothing is shared but within a session and nothing is ever dropped. Then a turn finds the longest of the session's earlier
    prompts that were read where it is: at the session's own replica always the last one, of n at random each with 1/n."""
    settings = TrafficSettings(
        turns="3", systems=1, system_tokens=0, message="200", output="8", think="60", guided=0.0, longest=2000
    )
    traffic = draw_traffic(settings, 0.05, 900, seed=1)
    limits = Limits(64 * 200_000, prefix_share=1.0, max_queue=1000)
    chunk = limits.prefill_chunk
    lengths = [request.prompt.tokens for request in list(traffic.requests())[:3]]
    whole = [length // chunk * chunk for length in lengths]
    expected = {
        "session": whole[0] + whole[1],
        # The second turn finds the first with 1/3; the third finds the second with 1/3, else the first with 1/3.
        "random": whole[0] / 3 + whole[1] / 3 + 2 / 3 * whole[0] / 3,
    }
    for policy, tokens in expected.items():
        outcome = simulate(traffic, 3, cost=replace_members(real_cost), limits=limits, policy=policy)
        sessions = len(traffic.counts)
        assert outcome.counts.cached_tokens / sessions == pytest.approx(tokens, rel=0.08)
    stays = simulate(traffic, 3, cost=replace_members(real_cost), limits=limits, policy="session")
    assert stays.counts.cached_tokens == sessions * expected["session"]


def replace_members(cost: StepCost) -> StepCost:
    """The base alone."""
    return StepCost(("base",), {"base": cost.costs["base"]})


def test_affinity_keeps_more_than_none(simulate: Callable[..., Outcome], real_cost: StepCost) -> None:
    settings = TrafficSettings(systems=12, system_tokens=400, think="5", guided=0.5)
    traffic = draw_traffic(replace(settings, turns="2-5"), 2.0, 400, seed=2)
    limits = Limits(64 * 120, max_sequences=8, max_queue=1000)
    rates = {
        policy: simulate(traffic, 4, cost=real_cost, limits=limits, policy=policy).hit_rate
        for policy in ("random", "session", "prefix")
    }
    assert rates["session"] > rates["random"]
    assert rates["prefix"] > rates["random"]
    assert np.isfinite(list(rates.values())).all()
