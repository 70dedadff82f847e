"""Where keys were is remembered, for as many as may be."""

from server.replicas.affinity import ANYWHERE
from server.replicas.homes import Homes


def test_a_key_is_at_home_where_it_was_settled_last() -> None:
    homes = Homes()
    assert homes.of("k") is None
    homes.settle("k", "a")
    homes.settle("k", "b")
    assert homes.of("k") == "b"


def test_what_goes_anywhere_is_at_home_nowhere() -> None:
    homes = Homes()
    homes.settle(ANYWHERE, "a")
    assert homes.of(ANYWHERE) is None


def test_the_key_that_was_asked_for_longest_ago_is_forgotten() -> None:
    homes = Homes(most=2)
    homes.settle("first", "a")
    homes.settle("second", "b")
    assert homes.of("first") == "a"
    homes.settle("third", "c")
    assert [homes.of(key) for key in ("first", "second", "third")] == ["a", None, "c"]
    assert len(homes) == 2
