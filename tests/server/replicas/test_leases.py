"""A key never has more places on all replicas than it may, in whatever order they tell of it and whoever dies."""

import random

from server.replicas.leases import LEASE_SECONDS, Leases


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_has_its_places_together_on_all_replicas() -> None:
    leases = Leases()
    assert leases.ask("a", 1, "key", 2, 3)
    assert leases.ask("b", 1, "key", 1, 3)
    assert not leases.ask("b", 2, "key", 2, 3)
    assert not leases.ask("a", 2, "key", 3, 3)
    assert leases.ask("b", 3, "other", 3, 3)


def test_what_is_given_back_is_there_for_others() -> None:
    leases = Leases()
    assert leases.ask("a", 1, "key", 3, 3)
    assert not leases.ask("b", 1, "key", 1, 3)
    leases.report("a", 2, {"key": 2})
    assert leases.ask("b", 2, "key", 1, 3)
    leases.report("a", 3, {})
    assert leases.ask("b", 3, "key", 3, 3)


def test_messages_that_overtake_each_other_leave_what_was_said_last() -> None:
    leases = Leases()
    leases.report("a", 5, {"key": 1})
    leases.report("a", 4, {"key": 3})
    assert leases.ask("b", 1, "key", 2, 3), "the report number 4 is older than number 5"
    leases = Leases()
    assert leases.ask("a", 7, "key", 3, 3)
    leases.report("a", 6, {"key": 1})
    assert not leases.ask("b", 1, "key", 1, 3), "the ask number 7 is newer than the report"
    leases.report("a", 8, {"key": 1})
    assert leases.ask("b", 2, "key", 2, 3)


def test_a_replica_that_says_nothing_any_more_has_nothing() -> None:
    clock = Clock()
    leases = Leases(clock)
    assert leases.ask("a", 1, "key", 3, 3)
    clock.now = LEASE_SECONDS
    leases.report("b", 1, {})
    assert not leases.ask("b", 2, "key", 1, 3)
    assert leases.replicas == 2
    clock.now = LEASE_SECONDS + 0.1
    assert leases.ask("b", 3, "key", 3, 3)
    assert leases.replicas == 1


def test_random_traffic_never_gets_past_the_bound() -> None:
    rng = random.Random(0)
    leases, held, numbers = Leases(), dict.fromkeys("abc", 0), dict.fromkeys("abc", 0)
    refused = 0
    for _ in range(5000):
        name = rng.choice("abc")
        numbers[name] += 1
        if rng.random() < 0.6:
            if leases.ask(name, numbers[name], "key", held[name] + 1, 4):
                held[name] += 1
            else:
                refused += 1
                leases.report(name, numbers[name] + 1, {"key": held[name]})
                numbers[name] += 1
        elif held[name]:
            held[name] -= 1
            leases.report(name, numbers[name], {"key": held[name]})
        assert sum(held.values()) <= 4
    assert refused > 100
