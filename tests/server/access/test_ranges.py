"""A weight outside its range is refused by name, however a request comes to it."""

import math
from collections.abc import Mapping
from typing import Any

import pytest

from server.access import Range, check_weights, intersected
from server.errors import InvalidRequest

PINNED = {"harmless": Range(low=1.0)}


def refusal(ranges: Mapping[str, Range], drawn: Mapping[str, float], **given: Any) -> InvalidRequest | None:
    """What ``check_weights`` says to this request, if anything."""
    asked = {"judged": {}, "fades": False, "asked": drawn, **given}
    try:
        check_weights(ranges, drawn=drawn, **asked)
    except InvalidRequest as error:
        return error
    return None


@pytest.mark.parametrize(
    ("range_", "part"),
    [
        (Range(), (0.0, 2.0)),
        (Range(low=1.0), (1.0, 2.0)),
        (Range(-1.0, 0.5), (0.0, 0.5)),
        (Range(low=2.0), (2.0, 4.0)),
        (Range(3.0, 4.0), (3.0, 4.0)),
        (Range(low=3.0), (3.0, 5.0)),
        (Range(high=-1.0), (-3.0, -1.0)),
        (Range(-1.5, -1.0), (-1.5, -1.0)),
        (Range(1.0, 1.0), (1.0, 1.0)),
        (Range(7.0, 7.0), (7.0, 7.0)),
    ],
)
def test_a_slider_shows_what_is_allowed(range_: Range, part: tuple[float, float]) -> None:
    assert range_.part(0.0, 2.0) == part
    assert all(end in range_ for end in part)
    assert range_.nearest(0.5) in range_


@pytest.mark.parametrize(
    ("range_", "inside", "outside", "text"),
    [
        (Range(low=1.0), [1, 100, 1e300], [0.99, 0, -1, -math.inf], "at least 1"),
        (Range(high=2.0), [2, 0, -100], [2.01, math.inf], "at most 2"),
        (Range(-0.5, 0.5), [-0.5, 0, 0.5], [-0.51, 0.51], "from -0.5 to 0.5"),
        (Range(0.0, 0.0), [0, -0.0], [1e-300, -1e-300], "exactly 0"),
        (Range(), [-1e300, 1e300], [], "from -inf to inf"),
    ],
)
def test_both_ends_are_inside(range_: Range, inside: list[float], outside: list[float], text: str) -> None:
    assert all(weight in range_ for weight in inside)
    assert not any(weight in range_ for weight in outside)
    assert range_ == Range() or str(range_) == text
    assert Range.of(range_.bounds) == range_


def test_a_quotient_that_does_not_come_out_even_is_the_bound() -> None:
    assert 0.3 / 0.1 < 3
    assert 0.3 / 0.1 in Range(low=3.0)
    assert 3 - 1e-6 not in Range(low=3.0)


def test_two_ranges_hold_together_or_contradict_each_other_by_name() -> None:
    both = intersected({"a": Range(1, 3), "b": Range(low=0)}, {"a": Range(2, 5), "c": Range(high=0)})
    assert both == {"a": Range(2, 3), "b": Range(low=0), "c": Range(high=0)}
    with pytest.raises(ValueError, match="a: no weight is at least 2 and at most 1"):
        intersected({"a": Range(low=2)}, {"a": Range(high=1)})


def test_what_is_allowed_passes() -> None:
    assert refusal(PINNED, {"harmless": 1.0, "helpful": -50.0}) is None
    assert refusal({}, {}, fades=True, judged={"x": -1.0}) is None


@pytest.mark.parametrize("weight", [0.999, 0.0, -3.0])
def test_a_weight_outside_is_named_with_what_is_allowed_and_what_it_is(weight: float) -> None:
    error = refusal(PINNED, {"harmless": weight})
    assert error is not None
    assert (error.param, error.code, error.status) == ("preferences.harmless", "weight_not_allowed", 400)
    assert "'harmless' has to weigh at least 1 here" in error.message
    assert f"{weight:g}" in error.message


def test_a_name_that_has_no_part_weighs_0() -> None:
    error = refusal(PINNED, {"helpful": 1.0})
    assert error is not None
    assert (error.param, "drawn without it" in error.message) == ("guidance", True)
    assert refusal({"harmless": Range(-1.0, 1.0)}, {"helpful": 1.0}) is None


def test_a_weight_that_may_fade_to_0_has_to_be_allowed_at_0() -> None:
    error = refusal(PINNED, {"harmless": 2.0}, fades=True)
    assert error is not None
    assert error.param == "guidance.max_kl"
    assert refusal({"harmless": Range(0.0, 5.0)}, {"harmless": 2.0}, fades=True) is None


def test_what_answers_are_chosen_by_is_bounded_too() -> None:
    error = refusal(PINNED, {"harmless": 2.0}, judged={"harmless": -2.0})
    assert error is not None
    assert "chosen by it at -2" in error.message
    assert refusal(PINNED, {"harmless": 2.0}, judged={"harmless": 4.0, "other": -1.0}) is None
    assert refusal(PINNED, {"harmless": 2.0}, judged={}) is None
