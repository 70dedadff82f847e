"""args and pargs: the base's k best tokens, scored by those reward models that were trained for it."""

from collections.abc import Callable
from typing import Any

import pytest

from server.decoding import Candidates, Guidance, Row
from server.errors import InvalidRequest


def test_preferences_are_the_scorers_weights(guide: Callable[..., Guidance]) -> None:
    row = guide("args", {"whole": 3.0}, beta=2.0, k=5).row
    assert row == Row({"base": 1.0}, candidates=Candidates(5, {"whole": 1.5, "other": 0.0}))
    assert row.members == {"base", "whole", "other"}


def test_w_and_scorer_stand_for_the_preferences_of_one_scorer(guide: Callable[..., Guidance]) -> None:
    guidance = guide("args", scorer="other", w=1.5)
    assert guidance.preferences == {"whole": 0.0, "other": 1.5}
    assert guidance.row == Row({"base": 1.0}, candidates=Candidates(10, {"whole": 0.0, "other": 1.5}))


def test_each_methods_weight_is_its_authors(guide: Callable[..., Guidance]) -> None:
    assert guide("args", scorer="whole").preferences == {"whole": 1.0, "other": 0.0}
    assert guide("pargs").preferences == {"prefix": 2.0}


def test_a_change_replaces_the_weights_and_keeps_the_candidates(guide: Callable[..., Guidance]) -> None:
    changed = guide("pargs", k=3, w=4.0).changed({"prefix": 0.0}, None)
    assert changed.row == Row({"base": 1.0}, candidates=Candidates(3, {"prefix": 0.0}))


@pytest.mark.parametrize(
    ("name", "preferences", "parameters", "param"),
    [
        ("args", None, {}, "guidance.scorer"),
        ("args", None, {"scorer": "prefix"}, "guidance.scorer"),
        ("args", {"prefix": 1.0}, {}, "preferences.prefix"),
        ("pargs", {"whole": 1.0}, {}, "preferences.whole"),
        ("args", {"whole": 1.0}, {"w": 1.0}, "guidance.w"),
        ("args", {"whole": 1.0}, {"scorer": "whole"}, "guidance.scorer"),
        ("args", {"whole": 101.0}, {}, "preferences.whole"),
        ("args", {"whole": 1.0}, {"k": 0}, "guidance.k"),
        ("args", {"whole": 1.0}, {"k": 2.0}, "guidance.k"),
        ("args", {"whole": 1.0}, {"k": 257}, "guidance.k"),
        ("pargs", None, {"max_kl": 1.0}, "guidance.max_kl"),
        ("pargs", None, {"normalize": True}, "guidance.normalize"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    guide: Callable[..., Guidance],
    name: str,
    preferences: dict[str, float] | None,
    parameters: dict[str, Any],
    param: str,
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _ = guide(name, preferences, **parameters).row
    assert caught.value.param == param
