"""Bootstrap intervals against cases that are known."""

import math
from random import Random

import pytest

from arm_models.evaluation.bootstrap import bootstrap, paired_difference


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide() -> None:
    rng = Random(0)
    values = [rng.gauss(3.0, 2.0) for _ in range(400)]
    interval = bootstrap(values)
    assert interval.mean == pytest.approx(sum(values) / 400)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 2.0 / math.sqrt(400), rel=0.12)
    assert interval.low < interval.mean < interval.high


def test_it_covers_the_true_mean_about_95_times_in_100() -> None:
    rng = Random(1)
    covered = 0
    for trial in range(200):
        interval = bootstrap([float(rng.random() < 0.5) for _ in range(100)], seed=trial, resamples=500)
        covered += interval.low <= 0.5 <= interval.high
    assert 178 <= covered <= 199


def test_equal_values_have_no_spread() -> None:
    assert bootstrap([0.25] * 10) == bootstrap([0.25] * 10, seed=9)
    assert bootstrap([0.25] * 10).low == bootstrap([0.25] * 10).high == 0.25


def test_pairs_cancel_what_they_share() -> None:
    rng = Random(2)
    before = [rng.gauss(0.0, 10.0) for _ in range(100)]
    change = paired_difference(before, [value + 1.0 for value in before])
    assert (change.low, change.mean, change.high) == pytest.approx((1.0, 1.0, 1.0))


def test_nothing_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])
    with pytest.raises(ValueError):
        paired_difference([1.0], [1.0, 2.0])
