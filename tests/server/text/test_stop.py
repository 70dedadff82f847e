"""Stop strings end an answer at the same place however the text is cut into tokens, and only they hold text back."""

from hypothesis import given, settings
from hypothesis import strategies as st

from server.text import StopStrings

small = st.text(alphabet="abc", max_size=40)
stops = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=1, max_size=4)


def definition(text: str, stops: list[str]) -> tuple[str, bool]:
    """The stop that is complete first ends the answer; of several complete at once, the longest."""
    for end in range(1, len(text) + 1):
        here = [stop for stop in stops if text[:end].endswith(stop)]
        if here:
            return text[: end - max(map(len, here))], True
    return text, False


def cut(text: str, stops: list[str], pieces: list[int]) -> tuple[str, bool]:
    scanner = StopStrings(stops)
    said, at = "", 0
    for size in [*pieces, len(text)]:
        said += scanner.push(text[at : at + size])
        at += size
    return said + scanner.flush(), scanner.hit


@given(small, stops, st.lists(st.integers(0, 6), max_size=20))
@settings(max_examples=500, deadline=None)
def test_the_cut_depends_on_the_text_alone(text: str, stops: list[str], pieces: list[int]) -> None:
    assert cut(text, stops, pieces) == definition(text, stops)


@given(small, stops)
@settings(max_examples=300, deadline=None)
def test_only_text_that_may_become_a_stop_is_held_back(text: str, stops: list[str]) -> None:
    scanner = StopStrings(stops)
    said = "".join(scanner.push(character) for character in text)
    if not scanner.hit:
        held = text[len(said) :]
        assert text == said + held
        assert not held or any(stop.startswith(held) for stop in stops)


@given(small, stops, st.integers(0, 40), st.lists(st.integers(0, 6), max_size=20))
@settings(max_examples=500, deadline=None)
def test_a_stop_that_ends_before_it_counts_ends_nothing(
    text: str, stops: list[str], unarmed: int, pieces: list[int]
) -> None:
    scanner = StopStrings(stops)
    said = scanner.push(text[:unarmed], armed=False)
    assert not scanner.hit
    at = unarmed
    for size in [*pieces, len(text)]:
        said += scanner.push(text[at : at + size])
        at += size
    said += scanner.flush()
    ends = [
        (end, stop)
        for end in range(unarmed + 1, len(text) + 1)
        for stop in stops
        if text[:end].endswith(stop)
    ]
    first = min((end for end, _ in ends), default=None)
    longest = max((len(stop) for end, stop in ends if end == first), default=0)
    assert scanner.hit == bool(ends)
    # What was let through before the stop counted cannot be taken back.
    assert said == (text if first is None else text[: first - longest])


@given(small, stops, st.lists(st.integers(0, 6), max_size=20))
@settings(max_examples=300, deadline=None)
def test_a_stop_that_is_shown_is_the_end_of_the_text_and_nothing_is_held_back(
    text: str, stops: list[str], pieces: list[int]
) -> None:
    scanner = StopStrings(stops, shown=True)
    said, at = "", 0
    for size in [*pieces, len(text)]:
        said += scanner.push(text[at : at + size])
        at += size
        assert said == text[: len(said)]
        assert scanner.hit or said == text[:at]
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    assert scanner.hit == bool(ends)
    assert said == (text[: ends[0]] if ends else text)


def test_text_after_the_stop_is_never_said() -> None:
    scanner = StopStrings(["END"])
    assert scanner.push("one EN") == "one "
    assert scanner.push("D two") == ""
    assert scanner.hit
    assert scanner.push("three") == ""
    assert scanner.flush() == ""


def test_held_text_comes_out_when_the_answer_ends_otherwise() -> None:
    scanner = StopStrings(["END"])
    assert scanner.push("the EN") == "the "
    assert scanner.flush() == "EN"
    assert not scanner.hit


def test_a_long_stop_string_costs_no_more_per_character() -> None:
    scanner = StopStrings(["a" * 1000 + "b"] * 16)
    text = "".join(scanner.push("a" * 100) for _ in range(100))
    assert text + scanner.flush() == "a" * 10_000
