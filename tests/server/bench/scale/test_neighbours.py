"""Engines beside each other slow each other, and never make each other faster."""

from collections.abc import Callable

import pytest

from server.bench.scale.neighbours import slowdowns
from server.bench.setup import Setup


@pytest.mark.slow
def test_a_neighbour_is_started_and_ended(make_setup: Callable[..., Setup], ticks: list[int]) -> None:
    found = slowdowns(make_setup(), 2, runs=1)
    assert found[0] == 1.0
    assert 1.0 <= found[1] < 1000
    assert len(ticks) == 1


def test_alone_nothing_is_measured(make_setup: Callable[..., Setup]) -> None:
    assert slowdowns(make_setup(), 1, runs=1) == [1.0]
