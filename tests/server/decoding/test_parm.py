"""PARM's mix: one reward at Σ α/β, conditioned on α/Σ α."""

from collections.abc import Callable
from typing import Any

import pytest

from server.decoding import Guidance, Row
from server.errors import InvalidRequest


def test_the_reward_weighs_the_sum_and_reads_the_shares(guide: Callable[..., Guidance]) -> None:
    row = guide("parm", {"helpful": 1.0, "harmless": 3.0}, beta=2.0).row
    assert row == Row({"base": 1.0, "parm": 2.0}, conditions={"parm": (0.25, 0.75)})


def test_objectives_weigh_alike_where_none_is_named(guide: Callable[..., Guidance]) -> None:
    assert guide("parm").row == Row({"base": 1.0, "parm": 1.0}, conditions={"parm": (0.5, 0.5)})


def test_all_zero_is_the_base_which_the_reward_may_join_later(guide: Callable[..., Guidance]) -> None:
    began = guide("parm", {})
    assert began.row == Row({"base": 1.0, "parm": 0.0})
    assert began.members == {"base", "parm"}
    changed = began.changed({"helpful": 1.0, "harmless": 0.0}, None)
    assert changed.row == Row({"base": 1.0, "parm": 1.0}, conditions={"parm": (1.0, 0.0)})


def test_shares_of_tiny_weights_are_shares(guide: Callable[..., Guidance]) -> None:
    row = guide("parm", {"helpful": 5e-324, "harmless": 5e-324}).row
    assert row is not None
    assert row.conditions["parm"] == (0.5, 0.5)


@pytest.mark.parametrize(
    ("preferences", "parameters", "param"),
    [
        ({"helpful": -1.0}, {}, "preferences.helpful"),
        ({"helpful": 60.0, "harmless": 60.0}, {}, "preferences"),
        ({"helpful": 1.0}, {"beta": 0.001}, "preferences.helpful"),
        ({"arm": 1.0}, {}, "preferences.arm"),
    ],
)
def test_what_makes_no_distribution_is_refused_by_name(
    guide: Callable[..., Guidance], preferences: dict[str, float], parameters: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _ = guide("parm", preferences, **parameters).row
    assert caught.value.param == param
