"""What a forward costs is what was measured."""

import pytest

from server.engine.speculation.costs import Costs


def test_between_measurements_it_is_on_a_line_and_outside_as_the_nearest() -> None:
    costs = Costs()
    assert costs.at(1) is None
    costs.add(2, 1.0)
    costs.add(8, 4.0)
    assert [costs.at(rows) for rows in (1, 2, 5, 8, 100)] == [1.0, 1.0, 2.5, 4.0, 4.0]
    assert (costs.count(2), costs.count(3), costs.count(7)) == (1, 0, 1)


def test_measurements_of_one_power_of_two_are_one_average() -> None:
    costs = Costs()
    costs.add(5, 1.0)
    costs.add(7, 3.0)
    assert costs.at(6) == pytest.approx(2.0)


def test_the_average_follows_what_changes() -> None:
    costs = Costs()
    for _ in range(50):
        costs.add(4, 1.0)
    for _ in range(50):
        costs.add(4, 2.0)
    assert costs.at(4) == pytest.approx(2.0, abs=0.01)


def test_a_hiccup_counts_little() -> None:
    costs = Costs()
    for _ in range(20):
        costs.add(4, 1.0)
    assert costs.add(4, 1000.0) == pytest.approx(4.0)
    assert costs.at(4) == pytest.approx(1.3)
