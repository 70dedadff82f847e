"""Classifier-free guidance: the base at 1 + γ, itself behind a negative prompt at −γ."""

from collections.abc import Callable
from typing import Any

import pytest

from server.decoding import Guidance, Negative
from server.errors import InvalidRequest


def test_the_base_gains_what_its_second_context_loses(mix: Callable[..., Any]) -> None:
    assert mix("cfg", negative_prompt="x") == {"base": 2.0, "base.negative": -1.0}
    expected = {"base": 1.5, "base.negative": -0.5, "arm": 1.0}
    assert mix("cfg", {"arm": 2.0}, negative_prompt="x", gamma=0.5, beta=2.0) == expected


def test_the_second_context_reads_the_prompt_or_the_messages(guide: Callable[..., Guidance]) -> None:
    messages = [{"role": "user", "content": "hello"}]
    for given, expected in (
        ({"negative_prompt": ""}, Negative(prompt="")),
        ({"negative_messages": messages}, Negative(messages=messages)),
    ):
        row = guide("cfg", **given).row
        assert row is not None
        assert row.negative == expected


def test_gamma_zero_is_the_base_and_reads_nothing_else(guide: Callable[..., Guidance]) -> None:
    row = guide("cfg", negative_prompt="x", gamma=0).row
    assert row is not None
    assert row.negative is None
    assert {name: weight for name, weight in row.mix.items() if weight} == {"base": 1.0}


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({}, "guidance.negative_prompt"),
        (
            {"negative_prompt": "x", "negative_messages": [{"role": "user", "content": "x"}]},
            "guidance.negative_prompt",
        ),
        ({"negative_prompt": 1}, "guidance.negative_prompt"),
        ({"negative_messages": []}, "guidance.negative_messages"),
        ({"negative_messages": [{"role": "tool", "content": "x"}]}, "guidance.negative_messages"),
        ({"negative_messages": [{"role": "user"}]}, "guidance.negative_messages"),
        (
            {"negative_messages": [{"role": "user", "content": "x", "name": "y"}]},
            "guidance.negative_messages",
        ),
        ({"negative_prompt": "x", "gamma": float("inf")}, "guidance.gamma"),
        ({"negative_prompt": "x", "gamma": 101.0}, "guidance.gamma"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    guide: Callable[..., Guidance], parameters: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _ = guide("cfg", **parameters).row
    assert caught.value.param == param
