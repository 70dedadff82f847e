"""The line that is typed."""

import pytest

from server.terminal.cells import width
from server.terminal.editor import Editor
from server.terminal.keys import Key


def typed(*keys: str) -> Editor:
    """Names of keys; other words are typed."""
    editor = Editor()
    names = ["backspace", "delete", "left", "right", "home", "end", "up", "down"]
    for word in keys:
        editor.press(Key(word) if word in names or word.startswith("ctrl-") else Key("text", word))
    return editor


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (["ab", "left", "x"], "axb"),
        (["ab", "backspace"], "a"),
        (["backspace"], ""),
        (["ab", "home", "delete"], "b"),
        (["ab", "home", "right", "ctrl-d"], "a"),
        (["ab", "home", "x", "end", "y"], "xaby"),
        (["one two", "ctrl-w"], "one "),
        (["one two ", "ctrl-w", "ctrl-w", "ctrl-w"], ""),
        (["one two", "ctrl-a", "right", "ctrl-k"], "o"),
        (["one two", "left", "ctrl-u"], "o"),
        (["e\u0301", "backspace"], ""),
        (["ae\u0301b", "left", "left", "x"], "axe\u0301b"),
        (["水b", "home", "delete"], "b"),
        (["left", "right", "delete", "ctrl-w", "ctrl-k", "ctrl-u"], ""),
    ],
)
def test_keys_edit_as_they_do_in_any_line(keys: list[str], line: str) -> None:
    assert typed(*keys).text == line


def test_lines_typed_before_come_back() -> None:
    editor = Editor()
    for line in ("one", "two", "two", " "):
        editor.put(line)
        assert editor.take() == line
    editor.press(Key("up"))
    assert editor.text == "two"
    editor.press(Key("up"))
    editor.press(Key("up"))
    assert editor.text == "one"
    editor.press(Key("down"))
    editor.press(Key("down"))
    assert editor.text == ""


@pytest.mark.parametrize("limit", [1, 2, 5, 12])
def test_the_cursor_is_always_in_view(limit: int) -> None:
    editor = typed("one 水をあげる two\nthree\x1b")
    for _ in range(30):
        shown, cursor = editor.view(limit)
        assert width(shown) <= limit
        assert 0 <= cursor <= limit
        assert shown.isprintable()
        editor.press(Key("left"))
    assert editor.view(12)[1] == 0


def test_a_short_line_is_shown_whole() -> None:
    assert typed("one\ntwo", "left").view(20) == ("one␊two", 6)
