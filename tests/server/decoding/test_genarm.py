"""GenARM's mix: base 1, every reward α/β; normalized divides by 1 + Σ α/β."""

from typing import Any

import pytest

from server.decoding import Guidance, Roster, Row, described, method_named, read_parameters, read_preferences
from server.decoding.roster import Reward
from server.errors import InvalidRequest

ROSTER = Roster(rewards=(Reward("a"), Reward("b"), Reward("c")))
GENARM = method_named("genarm", ROSTER)


def mix(preferences: dict[str, float], **parameters: Any) -> dict[str, float]:
    chosen = read_preferences(GENARM, preferences, ROSTER)
    row = Guidance(GENARM, read_parameters(GENARM, parameters), chosen, ROSTER).row
    assert row is not None
    return {name: weight for name, weight in row.mix.items() if weight}


def test_the_base_weighs_one_and_rewards_alpha_over_beta() -> None:
    assert mix({"a": 0.5, "b": -2.0, "c": 0.0}, beta=0.5) == {"base": 1.0, "a": 1.0, "b": -4.0}


def test_normalized_divides_everything_by_one_plus_the_sum() -> None:
    assert mix({"a": 1.0, "b": 2.0}, normalize=True) == {"base": 0.25, "a": 0.25, "b": 0.5}


@pytest.mark.parametrize(
    ("preferences", "parameters", "param"),
    [
        ({"a": 100.5}, {}, "preferences.a"),
        ({"a": -1.0}, {"beta": 0.0099}, "preferences.a"),
        ({"a": 1.0}, {"beta": 5e-324}, "preferences.a"),
        ({"a": -1.0}, {"normalize": True}, "guidance.normalize"),
        ({"a": -3.0}, {"normalize": True}, "guidance.normalize"),
        ({"a": -0.999}, {"normalize": True}, "guidance.normalize"),
        ({}, {"beta": 0.0}, "guidance.beta"),
        ({}, {"beta": -1.0}, "guidance.beta"),
        ({}, {"beta": float("nan")}, "guidance.beta"),
        ({}, {"beta": float("inf")}, "guidance.beta"),
        ({}, {"beta": "1"}, "guidance.beta"),
        ({}, {"normalize": 1}, "guidance.normalize"),
        ({}, {"lambda": 1}, "guidance.lambda"),
    ],
)
def test_what_makes_no_distribution_is_refused_by_name(
    preferences: dict[str, float], parameters: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        mix(preferences, **parameters)
    assert caught.value.param == param


def test_the_limit_itself_is_allowed() -> None:
    assert mix({"a": 1.0}, beta=0.01)["a"] == 100.0


def test_a_change_keeps_what_it_does_not_name() -> None:
    roster = Roster(rewards=(Reward("a"),))
    parameters = read_parameters(GENARM, {"beta": 2.0, "normalize": True})
    before = Guidance(GENARM, parameters, {"a": 2.0}, roster)
    assert before.changed({"a": 6.0}, None).row == Row({"base": 0.25, "a": 0.75})
    assert before.changed(None, 1.0).row == Row({"base": 1 / 3, "a": 2 / 3})
    assert before.row == Row({"base": 0.5, "a": 0.5})


def test_a_left_out_reward_is_off_and_an_unknown_one_is_refused_with_the_known() -> None:
    assert read_preferences(GENARM, {"b": 1}, ROSTER) == {"a": 0.0, "b": 1.0, "c": 0.0}
    with pytest.raises(InvalidRequest, match="a, b"):
        read_preferences(GENARM, {"nope": 1.0}, ROSTER)


def test_an_unknown_method_is_refused_with_the_known() -> None:
    with pytest.raises(InvalidRequest, match="genarm"):
        method_named("magic", ROSTER)


def test_the_method_describes_its_parameters() -> None:
    description = described(GENARM, ROSTER)
    assert description["name"] == "genarm"
    assert description["parameters"]["beta"]["default"] == 1.0
    assert description["parameters"]["normalize"]["type"] == "boolean"
