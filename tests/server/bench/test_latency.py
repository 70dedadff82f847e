"""Percentiles are of every token, and waiting for the client itself counts."""

import pytest

from server.bench.latency import Percentiles, Timeline, all_gaps, goodput, tokens_per_second


def test_percentiles_are_nearest_ranks() -> None:
    assert Percentiles.of(range(100, 0, -1)) == Percentiles(50, 95, 99)
    assert Percentiles.of(range(1, 1001)) == Percentiles(500, 950, 990)
    assert Percentiles.of([3.0]) == Percentiles(3.0, 3.0, 3.0)
    assert Percentiles.of([1.0, 2.0, 10.0]) == Percentiles(2.0, 10.0, 10.0)


def test_there_are_no_percentiles_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Percentiles.of([])


def test_times_are_counted_from_the_arrival_that_was_due() -> None:
    line = Timeline(10.0, (10.5, 10.75, 10.75, 11.5))
    assert line.ttft == 0.5
    assert line.gaps == [0.25, 0.0, 0.75]
    assert line.mean_gap == pytest.approx(1 / 3)
    assert Timeline(0.0, (2.0,)).mean_gap == 0.0


def test_gaps_are_of_all_responses_and_of_none_between_two() -> None:
    assert all_gaps([Timeline(0, (1, 2, 4)), Timeline(0, (9,)), Timeline(0, (5, 8))]) == [1, 2, 3]


def test_output_is_over_the_time_until_the_last_token() -> None:
    assert tokens_per_second([Timeline(1.0, (2.0, 3.0)), Timeline(2.0, (4.0, 5.0))]) == 1.0


def test_goodput_is_the_share_that_meets_both_limits() -> None:
    fast, late, slow = Timeline(0, (1, 1.5)), Timeline(0, (3, 3.5)), Timeline(0, (1, 2.5))
    assert goodput([fast, fast, late, slow], ttft=2.0, itl=1.0) == 0.5
    assert goodput([late], ttft=3.0, itl=0.5) == 1.0
