"""Proxy-tuning's mix: the base, and of each pair the expert minus the anti-expert."""

from collections.abc import Callable
from typing import Any

import pytest

from server.decoding import Roster
from server.decoding.roster import Reward
from server.errors import InvalidRequest


def test_an_expert_adds_what_its_anti_expert_takes(mix: Callable[..., Any]) -> None:
    assert mix("proxy", {"pair": 3.0}, beta=2.0) == {"base": 1.0, "pair": 1.5, "pair.reference": -1.5}


def test_the_deployments_weights_hold_where_none_are_given(mix: Callable[..., Any]) -> None:
    assert mix("proxy") == {"base": 1.0, "pair": 0.75, "pair.reference": -0.75}


def test_a_pair_on_the_base_takes_off_the_base(mix: Callable[..., Any]) -> None:
    roster = Roster(rewards=(Reward("tuned", 1.0, "base"),))
    assert mix("proxy", {"tuned": 0.25}, roster=roster) == {"base": 0.75, "tuned": 0.25}
    assert mix("genarm", {"tuned": 0.25}, roster=roster) == {"base": 0.75, "tuned": 0.25}


def test_a_reward_that_is_no_pair_is_refused(mix: Callable[..., Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"known: pair\)") as caught:
        mix("proxy", {"arm": 1.0})
    assert caught.value.param == "preferences.arm"
