"""What each method makes of a request's weights, by name: what an operator's bounds are checked against."""

from collections.abc import Callable
from typing import Any

import pytest

from server.decoding import METHODS, Guidance, Roster
from server.decoding.roster import Scorer
from server.decoding.weighed import Weighed

Guide = Callable[..., Guidance]

ARMS = {"arm": 0.5, "pair": 0.75}
"""The rewards' defaults in this folder's roster."""


@pytest.mark.parametrize(
    ("method", "preferences", "given", "expected"),
    [
        ("genarm", None, {}, Weighed(ARMS)),
        ("genarm", {"arm": 1}, {"beta": 4.0}, Weighed({"arm": 0.25, "pair": 0})),
        ("genarm", {"arm": 1}, {"normalize": True}, Weighed({"arm": 1, "pair": 0})),
        ("genarm", {"arm": 1}, {"max_kl": 9.0}, Weighed({"arm": 1, "pair": 0}, fades=True)),
        ("proxy", {"pair": 2}, {"beta": 2.0}, Weighed({"pair": 1})),
        ("dera", {"arm": 1}, {"policy": "kind", "lambda": -2.0}, Weighed({"arm": 1, "pair": 0, "kind": -2})),
        (
            "mod",
            {"safe": 0.25, "kind": 0.75, "arm": 1},
            {"beta": 0.5},
            Weighed({"safe": 0.25, "kind": 0.75, "arm": 2, "pair": 0}),
        ),
        (
            "cfg",
            None,
            {"gamma": 3.0, "negative_prompt": "x", "max_kl": 1.0},
            Weighed({"arm": 0, "pair": 0, "base.negative": -3}, fades=True),
        ),
        ("parm", {"helpful": 1}, {"beta": 2.0}, Weighed({"helpful": 0.5, "harmless": 0})),
        ("args", None, {"scorer": "whole", "w": 3.0, "beta": 2.0}, Weighed({"whole": 1.5, "other": 0})),
        ("pargs", {"prefix": -1}, {}, Weighed({"prefix": -1})),
        # A search draws from the base alone unless it is guided, and rewards then only choose.
        ("best_of_n", None, {}, Weighed({}, ARMS)),
        ("best_of_n", {"arm": 2}, {"guided": True, "beta": 2.0}, Weighed({"arm": 1, "pair": 0}, {"arm": 1})),
        ("best_of_n", None, {"guided": True, "scorer": "whole"}, Weighed(ARMS, {"whole": 1})),
        ("darwin", None, {"scorer": "whole"}, Weighed({}, {"whole": 1})),
        ("transfer_q", {"arm": 1}, {"w": -3.0, "guided": True}, Weighed({"arm": 1, "pair": 0}, {"arm": -3})),
        ("transfer_q", {"arm": 1}, {"w": 0.0}, Weighed({}, {})),
        ("transfer_q", None, {"w": 0.5, "scorer": "prefix"}, Weighed({}, {"prefix": 0.5})),
    ],
)
def test_weights_by_name(
    guide: Guide, method: str, preferences: dict[str, float] | None, given: dict[str, Any], expected: Weighed
) -> None:
    assert guide(method, preferences, **given).weighed == expected


def test_an_only_scorer_chooses_unasked(guide: Guide) -> None:
    roster = Roster(scorers=(Scorer("only", "responses"),))
    assert guide("best_of_n", roster=roster).weighed == Weighed({}, {"only": 1})


def test_a_change_is_weighed_as_it_is_now(guide: Guide) -> None:
    changed = guide("genarm", {"arm": 1}, max_kl=1.0).changed({"arm": 1, "pair": 0}, 0.5)
    assert changed.weighed == Weighed({"arm": 2, "pair": 0}, fades=True)


GIVEN: dict[str, dict[str, Any]] = {
    "dera": {"policy": "safe"},
    "cfg": {"negative_prompt": "x"},
    "args": {"scorer": "whole"},
    "best_of_n": {"guided": True},
    "darwin": {"guided": True},
    "transfer_q": {"guided": True},
}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_whatever_a_row_weighs_is_in_what_is_told_of_it(guide: Guide, method: Any) -> None:
    """A method that forgot to say what its own parameters weigh would slip through every bound."""
    guidance = guide(method.name, **GIVEN.get(method.name, {}))
    told = {name: weight for name, weight in guidance.weighed.drawn.items() if weight}
    row, roles = guidance.row, guidance.roles
    mix = dict(row.mix if row else roles.mix if roles else {})
    scored = row.candidates.weights if row and row.candidates else {}
    named = {"arm", "pair", "safe", "kind", "whole", "other", "prefix", "base.negative"}
    weighed = {name: weight for name, weight in {**mix, **scored}.items() if weight and name in named}
    objectives = {"helpful", "harmless"} if mix.get("parm") else set()
    assert weighed.keys() | objectives == told.keys()
    assert all(told[name] == weight for name, weight in weighed.items())
