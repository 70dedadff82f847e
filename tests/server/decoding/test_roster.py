"""A roster is what the configuration declares, each model once."""

from typing import Any

from server.config import read_deployment
from server.decoding import Roster
from server.decoding.roster import Conditioned, Policy, Reward, Scorer


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
