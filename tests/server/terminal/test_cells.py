"""Nothing that a terminal would obey, and the cells that are left."""

import sys
import unicodedata

import pytest

from server.terminal.cells import cells, cut, harmless, one_line, width


def test_no_control_or_format_character_stays_but_line_breaks_and_joiners() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            expected = character in "\n\u200c\u200d"
            assert (harmless(character) == character) is expected, hex(code)
            assert expected or harmless(character).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, 水 é 👩‍🚀", "plain, 水 é 👩‍🚀"),
        ("a\x1b[2Jb", "a␛[2Jb"),
        ("\x07\x08\r\x7f", "␇␈␍␡"),
        ("\x9b31m", "<U+009B>31m"),
        ("\u202eabc", "<U+202E>abc"),
        ("\ud800", "<U+D800>"),
        ("a\tb\nc", "a    b\nc"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
    ],
)
def test_what_is_not_shown_by_itself_is_made_visible(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_one_line_has_no_line_breaks() -> None:
    assert one_line(" a\nb\u2028c\r\n d\x1b ") == "a b c d␛"


@pytest.mark.parametrize(("character", "expected"), [("a", 1), ("水", 2), ("\u0301", 0), ("é", 1), ("👍", 2)])
def test_a_character_takes_its_cells(character: str, expected: int) -> None:
    assert cells(character) == expected


def test_a_cut_counts_cells_and_never_splits_a_wide_character() -> None:
    assert width("a水\u0301b") == 4
    assert cut("a水b", 2) == "a"
    assert cut("a水\u0301b", 3) == "a水\u0301"
    assert cut("abc", 9) == "abc"
