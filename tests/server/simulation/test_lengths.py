"""Lengths are what their names say."""

import numpy as np
import pytest

from server.simulation.lengths import Lengths


@pytest.mark.parametrize(
    ("text", "mean", "low", "high"),
    [
        ("128", 128, 128, 128),
        ("0.5", 0.5, 0.5, 0.5),
        ("16-256", 136, 16, 256),
        ("exponential:100", 100, 0, np.inf),
        ("lognormal:200,0.5,1-100000", 200, 1, 100_000),
    ],
)
def test_means_and_bounds(text: str, mean: float, low: float, high: float) -> None:
    values = Lengths.parse(text).draw(np.random.default_rng(0), 20_000)
    assert values.mean() == pytest.approx(mean, rel=0.03)
    assert values.min() >= low
    assert values.max() <= high


def test_whole_numbers_take_both_bounds_and_are_at_least_one() -> None:
    values = Lengths.parse("0-3").draw_whole(np.random.default_rng(0), 4000)
    assert np.bincount(values).tolist()[0] == 0
    assert set(values.tolist()) == {1, 2, 3}
    counts = np.bincount(Lengths.parse("5-7").draw_whole(np.random.default_rng(0), 6000))[5:]
    assert counts == pytest.approx([2000] * 3, rel=0.1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-3",
        "9-3",
        "normal:3",
        "inf",
        "3-inf",
        "exponential:inf",
        "lognormal:3,inf,1-9",
        "exponential:",
        "exponential:0",
        "lognormal:3,1",
        "lognormal:3,-1,1-9",
        "3-",
    ],
)
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Lengths.parse(text)
