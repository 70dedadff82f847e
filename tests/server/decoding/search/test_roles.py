"""Which members draw and which score."""

from typing import Any

import pytest

from server.decoding import Guidance, Roster, initial_preferences, method_named, read_parameters
from server.decoding.roster import Policy, Reward, Scorer
from server.decoding.search import Roles
from server.errors import InvalidRequest

ARM, PAIR = Reward("arm", 0.5), Reward("pair", 0.25, "pair.reference")
JUDGES = (Scorer("judge", "responses"), Scorer("critic", "prefixes"))
WHOLE = Roster(rewards=(ARM, PAIR), scorers=JUDGES, policies=(Policy("safe", "safe-member", "base"),))


def roles(preferences: dict[str, float] | None = None, roster: Roster = WHOLE, **keys: Any) -> Roles:
    method = method_named(keys.pop("method", "best_of_n"), roster)
    parameters = read_parameters(method, keys)
    given = initial_preferences(method, parameters, roster, given=preferences, preset=None)
    found = Guidance(method, parameters, given, roster).roles
    assert found is not None
    return found


def test_the_rewards_score_by_their_weights_and_the_base_draws() -> None:
    found = roles({"arm": 1.0, "pair": -2.0}, beta=2.0)
    assert found == Roles({"base": 1.0}, {"arm": 0.5, "pair": -1.0, "pair.reference": 1.0})
    assert set(found.members) == {"base", "arm", "pair", "pair.reference"}


def test_without_preferences_the_rewards_own_weights_hold() -> None:
    assert roles().score == {"arm": 0.5, "pair": 0.25, "pair.reference": -0.25}


def test_guided_the_same_rewards_are_in_the_mix() -> None:
    assert roles({"arm": 1.0}, guided=True).mix == {
        "base": 1.0,
        "arm": 1.0,
        "pair": 0.0,
        "pair.reference": 0.0,
    }


def test_a_scorer_scores_alone() -> None:
    found = roles({"arm": 1.0}, scorer="critic")
    assert found.score == {"critic": 1.0}
    assert set(found.members) == {"base", "critic"}
    assert roles(roster=Roster(scorers=JUDGES[:1])).score == {"judge": 1.0}


def test_a_policy_rolls_out() -> None:
    assert roles(method="transfer_q").policy == "base"
    found = roles(method="transfer_q", policy="safe")
    assert found.policy == "safe-member"
    assert "safe-member" in found.members


@pytest.mark.parametrize(
    ("preferences", "roster", "keys", "param"),
    [
        ({"arm": 0.0}, WHOLE, {}, "guidance.scorer"),
        ({}, WHOLE, {}, "guidance.scorer"),
        (None, Roster(scorers=JUDGES), {}, "guidance.scorer"),
        ({"arm": 1.0}, WHOLE, {"scorer": "arm"}, "guidance.scorer"),
        ({"arm": 101.0}, WHOLE, {}, "preferences.arm"),
        ({"arm": 1.0}, WHOLE, {"method": "transfer_q", "policy": "arm"}, "guidance.policy"),
    ],
)
def test_what_leaves_no_roles_is_refused_by_name(
    preferences: dict[str, float] | None, roster: Roster, keys: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        roles(preferences, roster, **keys)
    assert caught.value.param == param
