"""Bytes of a terminal become keys, however they are cut."""

import itertools

import pytest

from server.terminal.keys import Key, KeyReader

PRESSED = "aé\x1b[C\x1b[1;2D\x1bOA\x1b[3~\t\x1b[Z\r\x7f\x03\x1b[200~x\r\ny\x1b[C\x1b[201~0"
KEYS = [
    Key("text", "a"),
    Key("text", "é"),
    Key("right"),
    Key("shift-left"),
    Key("up"),
    Key("delete"),
    Key("tab"),
    Key("back-tab"),
    Key("enter"),
    Key("backspace"),
    Key("ctrl-c"),
    Key("paste", "x\ny\x1b[C"),
    Key("text", "0"),
]


def test_keys_come_one_by_one() -> None:
    assert KeyReader().feed(PRESSED) == KEYS


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_sequences_may_come_in_pieces(size: int) -> None:
    reader = KeyReader()
    pieces = [PRESSED[at : at + size] for at in range(0, len(PRESSED), size)]
    assert list(itertools.chain.from_iterable(map(reader.feed, pieces))) == KEYS


def test_escape_is_a_key_when_nothing_follows() -> None:
    reader = KeyReader()
    assert reader.feed("\x1b") == []
    assert reader.undecided
    assert reader.settle() == [Key("escape")]
    assert not reader.undecided
    assert reader.feed("[C") == [Key("text", "["), Key("text", "C")]


def test_escape_and_then_a_letter_are_two_keys() -> None:
    assert KeyReader().feed("\x1bx\x1b\x1b") == [Key("escape"), Key("text", "x"), Key("escape")]


@pytest.mark.parametrize(
    "unknown", ["\x1b[15~", "\x1b[[A", "\x1b[1;5R", "\x1bOP", "\x1b[?1;2c", "\x00", "\x1c"]
)
def test_what_no_key_here_sends_does_nothing(unknown: str) -> None:
    assert KeyReader().feed(f"a{unknown}b") == [Key("text", "a"), Key("text", "b")]


def test_a_sequence_that_never_ends_is_dropped() -> None:
    reader = KeyReader()
    reader.feed("\x1b[1;")
    assert reader.settle() == []
    assert reader.feed("a") == [Key("text", "a")]


def test_a_paste_is_not_cut_by_time() -> None:
    reader = KeyReader()
    reader.feed("\x1b[200~abc")
    assert not reader.undecided
    assert reader.settle() == []
    assert reader.feed("d\x1b[201~") == [Key("paste", "abcd")]
