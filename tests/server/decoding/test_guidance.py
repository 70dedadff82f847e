"""What holds for every method: what it lacks is named, a preset is for rewards, what cannot change does not."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from server.decoding import METHODS, Guidance, Parameters, Roster, Row, described, method_named
from server.errors import InvalidRequest

NEEDS = {
    "dera": "policies",
    "proxy": "rewards with a reference",
    "mod": "policies",
    "cfg": "base.negative_prompt",
    "parm": "conditioned",
    "args": "scorers with trained_on: responses",
    "pargs": "scorers with trained_on: prefixes",
    "best_of_n": "rewards or scorers",
    "darwin": "rewards or scorers",
    "transfer_q": "rewards or scorers",
}


@pytest.mark.parametrize(("name", "section"), NEEDS.items())
def test_a_method_without_its_models_names_the_section(name: str, section: str) -> None:
    with pytest.raises(InvalidRequest, match=section) as caught:
        method_named(name, Roster())
    assert caught.value.param == "guidance.method"


def test_every_method_describes_itself_whether_it_is_offered_or_not(roster: Roster) -> None:
    for method in METHODS:
        there, lacking = described(method, roster), described(method, Roster())
        assert (there["available"], there["needs"]) == (True, None)
        assert (lacking["available"], lacking["needs"]) == (method.name == "genarm", NEEDS.get(method.name))
        assert there["preferences"]
        assert lacking["preferences"] == []
        assert all("description" in schema for schema in there["parameters"].values())


def test_a_preset_gives_rewards_their_weights_where_a_method_takes_rewards(
    guide: Callable[..., Guidance],
) -> None:
    preset = {"arm": 2.0}
    assert guide("genarm", preset=preset).preferences == {"arm": 2.0, "pair": 0.0}
    assert guide("genarm").preferences == {"arm": 0.5, "pair": 0.75}
    assert guide("dera", preset=preset, policy="safe").preferences == {"arm": 2.0, "pair": 0.0}
    assert guide("mod", preset=preset).preferences == {"safe": 0.5, "kind": 0.5, "arm": 2.0, "pair": 0.0}
    assert guide("parm", preset=preset).preferences == {"helpful": 0.5, "harmless": 0.5}
    assert guide("genarm", {"pair": 1.0}, preset=preset).preferences == {"arm": 0.0, "pair": 1.0}


def test_own_parameters_are_those_that_were_set(guide: Callable[..., Guidance]) -> None:
    assert guide("dera", policy="safe", beta=2.0, max_kl=1.0).own_parameters == {"policy": "safe"}
    assert guide("dera", policy="safe", **{"lambda": 0.5}).own_parameters == {"policy": "safe", "lambda": 0.5}
    assert guide("genarm", normalize=False).own_parameters == {}


def test_weights_can_change_and_nothing_else(roster: Roster) -> None:
    class Turning:
        """A mean that follows the weights."""

        name = "turning"
        Parameters: type[Parameters] = Parameters

        def names(self, roster: Roster) -> Sequence[str]:  # noqa: ARG002
            return ("a",)

        def needs(self, roster: Roster) -> str | None:  # noqa: ARG002
            return None

        def defaults(self, parameters: Any, roster: Roster) -> Mapping[str, float]:  # noqa: ARG002
            return {}

        def row(self, preferences: Mapping[str, float], parameters: Any, roster: Roster) -> Row:  # noqa: ARG002
            return Row({"base": 1.0, "a": preferences["a"]}, power=float(preferences["a"] > 1))

    began = Guidance(Turning(), Parameters(), {"a": 0.0}, roster)
    assert began.changed({"a": 1.0}, 2.0).preferences == {"a": 1.0}
    with pytest.raises(InvalidRequest, match="turning"):
        began.changed({"a": 2.0}, None)
