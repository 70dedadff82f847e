"""Text cut at the borders of its tokens, each with what the chosen reward thinks of it."""

from collections.abc import Sequence

import pytest

from server.terminal.service import GuidedToken
from server.terminal.tint import Palette, runs


def tokens(*pairs: tuple[str, float]) -> list[GuidedToken]:
    return [GuidedToken(text, 0.1, -5.0, {"helpful": -5.0 + gain}) for text, gain in pairs]


@pytest.mark.parametrize(
    ("text", "its", "expected"),
    [
        ("ab c", tokens(("ab", 1.0), (" c", -1.0)), [("ab", 1.0, 1), (" c", -1.0, 1)]),
        ("é", tokens(("\ufffd", 1.0), ("\ufffd", 2.0)), [("é", 3.0, 2)]),
        ("a é", tokens(("a", 1.0), (" \ufffd", 1.0), ("\ufffd", 2.0)), [("a", 1.0, 1), (" é", 3.0, 2)]),
        ("a", tokens(("a", 1.0), ("<|end|>", 2.0)), [("a", 1.0, 1), ("", 2.0, 1)]),
        ("", tokens(("<|end|>", 2.0)), [("", 2.0, 1)]),
        ("ab", tokens(("a", 1.0)), [("a", 1.0, 1), ("b", None, 0)]),
        ("ab", [], [("ab", None, 1)]),
        ("", [], []),
    ],
)
def test_runs_follow_the_tokens_where_the_text_is_theirs(
    text: str, its: Sequence[GuidedToken], expected: list[tuple[str, float | None, int]]
) -> None:
    found = list(runs(text, its, "helpful"))
    assert [(run, None if gain is None else round(gain, 6), count) for run, gain, count in found] == expected
    assert "".join(run for run, _, _ in found) == text


@pytest.mark.parametrize("chosen", ["harmless", None])
def test_a_reward_that_was_not_weighted_tints_nothing(chosen: str | None) -> None:
    assert list(runs("ab", tokens(("ab", 1.0)), chosen)) == [("ab", None, 1)]


def test_every_level_has_a_cue_of_its_own_without_colour() -> None:
    gains = (3.0, 1.0, 0.0, -1.0, -9999.0)
    for colour in (True, False):
        assert len({Palette(colour).gain(gain) for gain in gains}) == 5
    assert Palette(True).gain(None) == Palette(True).gain(0.0) == ""
