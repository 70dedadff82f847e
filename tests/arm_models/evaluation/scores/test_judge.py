"""A judge is asked both ways round, and believed only where it agrees with itself."""

import pytest

from arm_models.evaluation.scores.judge import compare, judge_prompt, points


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("[[A]]", 1.0),
        ("[[B]]", 0.0),
        ("Both are fine. [[C]]", 0.5),
        ("[[A]] looked better at first, but: [[ B ]]", 0.0),
        ("A", 1.0),
        ("**B**", 0.0),
        ("Answer B is short.\n\nThe better answer is: A.", 1.0),
        ("tie", 0.5),
        ("Answer A says more than answer B", None),
        ("", None),
        ("As for the rest,", None),
        ("ABBA", None),
    ],
)
def test_a_reply_is_read_or_not_but_never_guessed(reply: str, value: float | None) -> None:
    assert points(reply) == value


def test_the_answers_stand_as_they_are_whatever_is_in_them() -> None:
    asked = judge_prompt("Why {first}?", "{second} \\1", "[Answer B]", "is more helpful")
    assert "Why {first}?" in asked
    assert "[Answer A]\n{second} \\1\n" in asked
    assert ": judge which is more helpful. Neither" in asked
    assert "to the same request. Neither" in judge_prompt("x", "y", "z")


def longest(prompt: str) -> str:
    """Prefers the longer answer, as it should not."""
    first, second = prompt.split("[Answer A]\n")[1].split("\n\nWhich")[0].split("\n\n[Answer B]\n")
    return "[[A]]" if len(first) > len(second) else "[[B]]"


def test_a_judge_that_agrees_with_itself_decides() -> None:
    assert compare(longest, "q", "longer", "short").points == 1.0
    assert compare(longest, "q", "short", "longer").points == 0.0


def test_one_that_always_takes_the_first_side_decides_nothing() -> None:
    assert compare(lambda _: "[[A]]", "q", "x", "y").points == 0.5
    assert compare(lambda _: "???", "q", "x", "y").points == 0.5
    replies = iter(["[[A]]", "no idea"])
    assert compare(lambda _: next(replies), "q", "x", "y").points == 0.5
