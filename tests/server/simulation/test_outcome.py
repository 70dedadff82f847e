"""What is counted, and from when to when."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from server.simulation.outcome import Outcome, Percentiles, Window
from server.simulation.traffic import Traffic


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (Window(), 5),
        (Window(10.0, 12.0), 4),  # steps end at 10.5, 11, 11.5, 12, 12.5
        (Window(11.2, 12.4), 2),
        (Window(13.0, 20.0), 0),
        (Window(0.0, 10.0), 0),
    ],
)
def test_steps_that_end_in_a_window(window: Window, expected: int) -> None:
    assert window.steps(10.0, 0.5, 5) == expected


def test_percentiles_are_values_of_the_sample() -> None:
    found = Percentiles.of(np.arange(1.0, 101.0))
    assert (found.p50, found.p95, found.p99) == (50.0, 95.0, 99.0)
    none = Percentiles.of(np.array([]))
    assert math.isnan(none.p50)
    assert none.as_json() == {"p50": None, "p95": None, "p99": None}


def test_a_window_leaves_out_what_is_before_and_behind(
    simulate: Callable[..., Outcome], one_turn: Callable[..., Traffic]
) -> None:
    traffic = one_turn([0.0, 10.0, 20.0, 30.0], [5, 5, 5, 5])
    outcome = simulate(traffic, window=Window(9.5, 29.0))
    assert outcome.counts.window_tokens == 10
    assert outcome.throughput == pytest.approx(10 / 19.5)
    assert outcome.summary()["requests_per_second"] == pytest.approx(2 / 19.5)
    assert len(outcome.gaps) == 8
    assert outcome.tokens == 20


def test_a_steady_rate_leaves_out_how_it_began_and_ended(
    simulate: Callable[..., Outcome], one_turn: Callable[..., Traffic]
) -> None:
    traffic = one_turn([10.0 * n for n in range(20)], [5] * 20)
    assert simulate(traffic).steady() == pytest.approx((0.1, 0.5))
    with pytest.raises(ValueError, match="too few"):
        simulate(one_turn([0.0], [5])).steady()


def test_a_summary_goes_to_a_file(simulate: Callable[..., Outcome], one_turn: Callable[..., Traffic]) -> None:
    import json

    summary = simulate(one_turn([0.0], [1])).summary()
    assert json.loads(json.dumps(summary, allow_nan=False))["between"]["p50"] is None
    assert summary["completed"] == 1
