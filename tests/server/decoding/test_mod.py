"""MOD's mix: policies without the base, with weights of sum 1; the divergence says which mean."""

from collections.abc import Callable
from typing import Any

import pytest

from server.decoding import Guidance
from server.errors import InvalidRequest


def test_policies_weigh_their_preferences_and_the_base_nothing(mix: Callable[..., Any]) -> None:
    assert mix("mod", {"safe": 0.25, "kind": 0.75}) == {"safe": 0.25, "kind": 0.75}
    assert mix("mod") == {"safe": 0.5, "kind": 0.5}
    assert mix("mod", {"safe": 1.0}) == {"safe": 1.0}


def test_beta_divides_rewards_and_no_policy(mix: Callable[..., Any]) -> None:
    assert mix("mod", {"safe": 1.0, "arm": 1.0}, beta=2.0) == {"safe": 1.0, "arm": 0.5}


@pytest.mark.parametrize(
    ("parameters", "power"),
    [
        ({}, 0.0),
        ({"divergence": "reverse_kl"}, 0.0),
        ({"divergence": "forward_kl"}, 1.0),
        ({"divergence": "alpha", "divergence_alpha": 0.25}, 0.25),
    ],
)
def test_the_divergence_is_the_mean(
    guide: Callable[..., Guidance], parameters: dict[str, Any], power: float
) -> None:
    row = guide("mod", **parameters).row
    assert row is not None
    assert row.power == power


def test_another_mean_reads_policies_only(guide: Callable[..., Guidance]) -> None:
    assert guide("mod", divergence="forward_kl").members == {"base", "safe", "kind"}
    assert "arm" in guide("mod").members


@pytest.mark.parametrize(
    ("preferences", "parameters", "param"),
    [
        ({"safe": 0.5}, {}, "preferences"),
        ({"arm": 1.0}, {}, "preferences"),
        ({"safe": 0.5, "kind": 0.500002}, {}, "preferences"),
        ({"safe": 1.5, "kind": -0.5}, {}, "preferences.kind"),
        ({"safe": 1.0, "arm": 1.0}, {"divergence": "forward_kl"}, "preferences.arm"),
        ({"safe": 1.0}, {"divergence": "forward_kl", "max_kl": 1.0}, "guidance.max_kl"),
        ({"safe": 1.0}, {"divergence": "alpha"}, "guidance.divergence_alpha"),
        ({"safe": 1.0}, {"divergence_alpha": 0.5}, "guidance.divergence_alpha"),
        ({"safe": 1.0}, {"divergence": "alpha", "divergence_alpha": 1.0}, "guidance.divergence_alpha"),
        ({"safe": 1.0}, {"divergence": "js"}, "guidance.divergence"),
        ({"nope": 1.0}, {}, "preferences.nope"),
    ],
)
def test_what_makes_no_distribution_is_refused_by_name(
    guide: Callable[..., Guidance], preferences: dict[str, float], parameters: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _ = guide("mod", preferences, **parameters).row
    assert caught.value.param == param


def test_a_change_has_to_be_a_distribution_too(guide: Callable[..., Guidance]) -> None:
    began = guide("mod", {"safe": 1.0}, divergence="alpha", divergence_alpha=0.5)
    changed = began.changed({"safe": 0.25, "kind": 0.75}, None).row
    assert changed is not None
    assert (changed.mix, changed.power) == ({"safe": 0.25, "kind": 0.75}, 0.5)
    with pytest.raises(InvalidRequest, match="add up to 1"):
        began.changed({"safe": 0.25, "kind": 0.25}, None)
