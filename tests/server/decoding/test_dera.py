"""DeRa's mix: λ of a policy and 1 − λ of what it was trained from."""

from collections.abc import Callable
from typing import Any

import pytest

from server.decoding import Guidance
from server.errors import InvalidRequest


@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        (0.0, {"kind.reference": 1.0}),
        (0.25, {"kind": 0.25, "kind.reference": 0.75}),
        (1.0, {"kind": 1.0}),
        (2.0, {"kind": 2.0, "kind.reference": -1.0}),
        (-0.5, {"kind": -0.5, "kind.reference": 1.5}),
    ],
)
def test_a_policy_weighs_lambda_and_its_reference_the_rest(
    mix: Callable[..., Any], strength: float, expected: dict[str, float]
) -> None:
    assert mix("dera", policy="kind", **{"lambda": strength}) == expected


def test_the_base_may_be_the_reference(mix: Callable[..., Any]) -> None:
    assert mix("dera", policy="safe", **{"lambda": 0.25}) == {"safe": 0.25, "base": 0.75}


def test_lambda_is_one_and_rewards_are_off_unless_asked_for(mix: Callable[..., Any]) -> None:
    assert mix("dera", policy="safe") == {"safe": 1.0}
    assert mix("dera", {"arm": 3.0}, policy="safe", beta=2.0) == {"safe": 1.0, "arm": 1.5}


def test_members_are_those_that_may_be_weighted_while_it_runs(guide: Callable[..., Guidance]) -> None:
    assert guide("dera", policy="kind").members == {"base", "kind", "arm", "pair", "pair.reference"}


@pytest.mark.parametrize(
    ("parameters", "param", "says"),
    [
        ({}, "guidance.policy", "safe, kind"),
        ({"policy": "nope"}, "guidance.policy", "safe, kind"),
        ({"policy": "safe", "lambda": float("nan")}, "guidance.lambda", "finite"),
        ({"policy": "safe", "lambda": "1"}, "guidance.lambda", "number"),
        ({"policy": "safe", "lambda": 101}, "guidance.lambda", "100"),
        ({"policy": "safe", "strength": 1}, "guidance.strength", "lambda, policy"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    guide: Callable[..., Guidance], parameters: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        _ = guide("dera", **parameters).row
    assert caught.value.param == param
