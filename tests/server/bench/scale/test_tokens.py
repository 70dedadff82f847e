"""Prompts as token ids share what they are said to share."""

import pytest

from server.bench.scale.tokens import tokens_of
from server.simulation.request import Prompt


def common(one: Prompt, other: Prompt, salts: tuple[str, str] = ("", "")) -> int:
    pairs = zip(tokens_of(one, 1000, salts[0]), tokens_of(other, 1000, salts[1]), strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(one.tokens, other.tokens))


def test_a_prompt_is_as_long_as_it_says_and_ends_nowhere() -> None:
    tokens = tokens_of(Prompt(0, 30, 4, 100), 50)
    assert len(tokens) == 100
    assert set(tokens) <= set(range(1, 50))
    assert tokens == tokens_of(Prompt(0, 30, 4, 100), 50)


def test_what_is_shared() -> None:
    first, later = Prompt(0, 30, 4, 100), Prompt(0, 30, 4, 160)
    assert common(first, later) == 100
    assert common(first, Prompt(0, 30, 5, 100)) == 30
    assert common(first, Prompt(1, 30, 5, 100)) == 0
    assert common(first, first, ("a", "b")) == 0


def test_there_must_be_something_to_say() -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        tokens_of(Prompt(0, 0, 0, 1), 1)
