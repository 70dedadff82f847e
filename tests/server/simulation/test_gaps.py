"""Percentiles of many times from few numbers."""

import math

import numpy as np
import pytest

from server.simulation.gaps import RESOLUTION, Gaps


@pytest.mark.parametrize("percent", [1, 50, 95, 99, 100])
def test_percentiles_are_those_of_all_the_values(percent: float) -> None:
    values = np.random.default_rng(0).lognormal(-3, 1.5, 5000)
    gaps = Gaps()
    for value in values:
        gaps.add(float(value))
    exact = float(np.sort(values)[math.ceil(percent / 100 * len(values)) - 1])
    assert gaps.percentile(percent) == pytest.approx(exact, rel=RESOLUTION * 1.01)
    assert len(gaps) == 5000


def test_many_alike_are_added_at_once() -> None:
    gaps = Gaps()
    gaps.add(1.0, 98)
    gaps.add(0.0)
    gaps.add(50.0)
    gaps.add(7.0, 0)
    assert len(gaps) == 100
    assert gaps.percentile(1) == 0.0
    assert gaps.percentile(50) == pytest.approx(1.0, rel=RESOLUTION)
    assert gaps.percentile(100) == pytest.approx(50.0, rel=RESOLUTION)


def test_of_nothing_there_is_no_percentile() -> None:
    assert math.isnan(Gaps().percentile(50))
