"""Alike requests go to one replica while it has room, and few keys move when replicas come or go."""

from collections import Counter

from server.replicas.affinity import ANYWHERE
from server.replicas.rendezvous import LEAST_SLACK, order, ranked, slack

REPLICAS = [f"replica-{number}" for number in range(5)]
KEYS = [f"key-{number}" for number in range(2000)]


def test_a_key_prefers_the_same_replicas_in_whatever_order_they_are_known() -> None:
    assert ranked("k", REPLICAS) == ranked("k", reversed(REPLICAS))


def test_keys_are_spread_evenly() -> None:
    counts = Counter(ranked(key, REPLICAS)[0] for key in KEYS)
    assert len(counts) == 5
    assert max(counts.values()) < 1.25 * len(KEYS) / 5


def test_only_the_keys_of_a_replica_that_goes_move() -> None:
    for key in KEYS:
        before, after = ranked(key, REPLICAS), ranked(key, REPLICAS[1:])
        assert after == [name for name in before if name != REPLICAS[0]]


def test_a_home_is_first_until_it_is_full_whoever_the_favourite_is() -> None:
    first, second, *_ = ranked("k", REPLICAS)
    loads = dict.fromkeys(REPLICAS, 0) | {second: 7}
    assert order("k", loads, full=8, home=second)[:2] == [second, first]
    assert order("k", loads | {second: 8}, full=8, home=second)[0] == first
    assert order("k", loads | {second: 8}, full=8, home=second)[-1] == second
    assert order("k", loads, full=8, home="gone")[0] == first


def test_a_new_key_goes_to_its_favourite_unless_that_has_much_more_to_do_than_others() -> None:
    first, second, *_ = ranked("k", REPLICAS)
    loads = dict.fromkeys(REPLICAS, 10)
    assert order("k", loads | {first: 14}, full=64)[:2] == [first, second]  # a mean of 10.8; 4 more may be
    assert order("k", loads | {first: 15}, full=64)[0] == second
    assert order("k", loads | {first: 15}, full=64)[-1] == first


def test_where_little_is_under_way_a_favourite_is_not_left_for_two_requests() -> None:
    first, *_ = ranked("k", REPLICAS)
    assert order("k", dict.fromkeys(REPLICAS, 0) | {first: 2}, full=8)[0] == first


def test_new_keys_that_come_at_once_are_shared_evenly() -> None:
    loads = dict.fromkeys(REPLICAS[:2], 0)
    for key in KEYS[:64]:
        loads[order(key, loads, full=64)[0]] += 1
    assert max(loads.values()) <= 36


def test_several_gateways_look_for_a_key_where_its_hash_says_as_long_as_they_can() -> None:
    """Each sends new ones elsewhere only when half a batch more is under way, since the others do not know of it."""
    assert (slack(64, 1), slack(64, 2), slack(2, 2)) == (4, 32, LEAST_SLACK)
    first, second, *_ = ranked("k", REPLICAS)
    loads = dict.fromkeys(REPLICAS, 10)
    assert order("k", loads | {first: 49}, full=64, more=slack(64, 2))[0] == first  # a mean of 17.8
    assert order("k", loads | {first: 51}, full=64, more=slack(64, 2))[0] == second


def test_where_all_are_full_the_least_loaded_is_first() -> None:
    loads = dict(zip(REPLICAS, (9, 12, 8, 30, 10), strict=True))
    assert order("k", loads, full=8) == sorted(loads, key=lambda name: loads[name])


def test_what_goes_anywhere_goes_where_least_is_under_way() -> None:
    loads = dict(zip(REPLICAS, (3, 2, 1, 5, 4), strict=True))
    assert order(ANYWHERE, loads, full=8) == sorted(loads, key=lambda name: loads[name])


def test_every_replica_is_offered_once() -> None:
    loads = dict(zip(REPLICAS, (9, 0, 8, 3, 8), strict=True))
    for key in (ANYWHERE, *KEYS[:50]):
        assert sorted(order(key, loads, full=8)) == REPLICAS
    assert order("k", {}, full=8) == []
