"""A roster is what the configuration declares, each model once."""

from typing import Any

from server.config import RewardSettings, read_deployment
from server.decoding import Roster
from server.decoding.genarm import GenArm, GenArmParameters
from server.decoding.roster import Conditioned, Policy, Reward, Scorer
from server.decoding.weighing import with_rewards


def roster(**sections: Any) -> Roster:
    return Roster.of(read_deployment({"model": "m", "base": {"model": "llm"}, **sections}, "test"))


def test_every_role_has_its_members_the_base_first() -> None:
    made = roster(
        base={"model": "llm", "negative_prompt": True},
        rewards=[
            {"name": "arm", "model": "a", "default": 0.5},
            {"name": "pair", "model": "b", "reference": "c"},
        ],
        policies=[{"name": "safe", "model": "d"}, {"name": "kind", "model": "e", "reference": "f"}],
        scorers=[{"name": "score", "model": "g", "trained_on": "prefixes"}],
        conditioned={"name": "parm", "model": "h", "objectives": ["x", "y"]},
    )
    assert made.rewards == (Reward("arm", 0.5, None), Reward("pair", 1.0, "pair.reference"))
    assert made.policies == (Policy("safe", "safe", "base"), Policy("kind", "kind", "kind.reference"))
    assert made.scorers == (Scorer("score", "prefixes"),)
    assert made.conditioned == Conditioned("parm", ("x", "y"))
    names = ["base", "arm", "pair", "safe", "pair.reference", "kind", "kind.reference", "score", "parm"]
    assert set(made.settings) == set(names)
    assert made.members[0] == "base"
    assert made.members[-1] == "base.negative"
    assert {name: made.settings[name].model for name in names} == dict(
        zip(names, ("llm", "a", "b", "d", "c", "e", "f", "g", "h"), strict=True)
    )


def test_a_model_given_twice_is_one_member() -> None:
    made = roster(
        rewards=[
            {"name": "pair", "model": "tuned", "reference": "llm"},
            {"name": "other", "model": "small", "reference": "untuned"},
        ],
        policies=[
            {"name": "safe", "model": "tuned", "reference": "untuned"},
            {"name": "plain", "model": "llm", "reference": "small"},
        ],
    )
    assert [reward.reference for reward in made.rewards] == ["base", "other.reference"]
    assert made.policies == (Policy("safe", "pair", "other.reference"), Policy("plain", "base", "other"))
    assert made.members == ("base", "pair", "other", "other.reference")


def test_a_model_held_otherwise_is_another_member() -> None:
    made = roster(
        rewards=[{"name": "pair", "model": "tuned", "dtype": "bfloat16", "reference": "llm"}],
        policies=[{"name": "safe", "model": "tuned"}],
    )
    assert made.members == ("base", "pair", "safe", "pair.reference")
    assert made.settings["pair.reference"].dtype == "bfloat16"


def reward(name: str, model: str, **fields: Any) -> RewardSettings:
    return RewardSettings(name=name, model=model, **fields)


def test_a_reward_that_comes_later_has_members_of_its_own_version() -> None:
    made = roster(rewards=[{"name": "arm", "model": "a"}, {"name": "other", "model": "o"}])
    grown = made.with_reward(reward("pair", "b", default=0.5, reference="c"), 2)
    assert grown.rewards == (*made.rewards, Reward("pair", 0.5, "pair.reference#2", 2))
    assert grown.members == ("base", "arm", "other", "pair#2", "pair.reference#2")
    assert grown.settings["pair.reference#2"].model == "c"
    assert grown.labels == {
        "base": "base",
        "arm": "arm",
        "other": "other",
        "pair#2": "pair",
        "pair.reference#2": "pair.reference",
    }
    replaced = grown.with_reward(reward("arm", "a", reference="llm"), 3)
    assert [one.member for one in replaced.rewards] == ["arm#3", "other", "pair#2"]
    assert replaced.rewards[0].reference == "base"
    assert set(replaced.settings) == {"base", "other", "pair#2", "pair.reference#2", "arm#3"}
    assert replaced.without_reward("pair").members == ("base", "other", "arm#3")
    assert made.members == ("base", "arm", "other"), "what a request began with stays as it is"


def test_a_replaced_reward_stays_for_another_role_and_is_told_apart() -> None:
    made = roster(rewards=[{"name": "arm", "model": "a"}], policies=[{"name": "safe", "model": "a"}])
    replaced = made.with_reward(reward("arm", "b"), 2)
    assert replaced.policies == (Policy("safe", "arm", "base"),)
    assert replaced.members == ("base", "arm", "arm#2")
    assert replaced.labels == {"base": "base", "arm": "arm#1", "arm#2": "arm"}
    again = replaced.without_reward("arm")
    assert again.members == ("base", "arm")
    assert again.labels == {"base": "base", "arm": "arm"}


def test_every_method_asks_for_the_version_it_began_with() -> None:
    made = roster(rewards=[{"name": "arm", "model": "a"}, {"name": "pair", "model": "b", "reference": "c"}])
    now = made.with_reward(reward("arm", "d"), 2).with_reward(reward("pair", "e", reference="f"), 3)
    weighted = with_rewards({"base": 1.0}, {"arm": 2.0, "pair": 1.0}, 2.0, now)
    assert weighted == {"base": 1.0, "arm#2": 1.0, "pair#3": 0.5, "pair.reference#3": -0.5}
    parameters = GenArmParameters(normalize=True)
    assert GenArm().row({"arm": 1.0, "pair": 0.0}, parameters, now).mix["arm#2"] == 0.5
    assert with_rewards({}, {"arm": 1.0}, 1.0, made) == {"arm": 1.0}
