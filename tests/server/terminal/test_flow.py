"""Text that comes in pieces breaks between words, whatever the pieces are."""

import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from server.terminal.cells import width
from server.terminal.flow import Flow


def shown(display: Any, written: str) -> list[str]:
    display.feed(re.sub(r"(?<!\r)\n", "\r\n", written))
    return list(display.text.split("\n"))


@pytest.mark.parametrize("seed", range(40))
def test_rows_are_as_if_the_text_had_come_whole(seed: int, display: Callable[[int, int], Any]) -> None:
    source = random.Random(seed)
    words = ["a", "garden", "水をあげる", "wateringtheplants", "é", "green,", "\n", "x\u0301y"]
    text = " ".join(source.choice(words) for _ in range(30))
    columns = source.randint(8, 30)
    pieces, rest = [], text
    while rest:
        size = source.randint(1, 9)
        pieces.append(rest[:size])
        rest = rest[size:]
    flow = Flow(columns - 1)
    broken = "".join(flow.push(piece, source.choice(["", "1", "4;36"])) for piece in pieces)
    rows = shown(display(columns, 80), broken)
    assert rows == shown(display(columns, 80), Flow(columns - 1).push(text))
    assert all(width(row) < columns for row in rows)
    assert re.sub(r"\s", "", "".join(rows)) == re.sub(r"\s", "", text)


def test_a_word_that_outgrows_its_row_moves_to_the_next_with_its_styles(
    display: Callable[[int, int], Any],
) -> None:
    flow, screen = Flow(9), display(10, 5)
    rows = shown(screen, flow.push("green gar") + flow.push("den", "1"))
    assert rows == ["green", "garden"]
    assert screen.style("gar") == ""
    assert screen.style("den") == "0;1"


def test_a_word_longer_than_a_row_is_broken(display: Callable[[int, int], Any]) -> None:
    assert shown(display(6, 9), Flow(5).push("ab wateringtheplants")) == [
        "ab",
        "water",
        "ingth",
        "eplan",
        "ts",
    ]


def test_wide_characters_break_anywhere(display: Callable[[int, int], Any]) -> None:
    assert shown(display(8, 5), Flow(7).push("水をあげる前")) == ["水をあ", "げる前"]


def test_styles_end_with_the_piece() -> None:
    assert Flow(20).push("ab", "1").endswith("\x1b[0m")
    assert Flow(20).push("ab") == "ab"


def test_another_width_holds_from_then_on(display: Callable[[int, int], Any]) -> None:
    flow = Flow(29)
    written = flow.push("one two three\n")
    flow.resized(8)
    assert shown(display(30, 9), written + flow.push("one two three")) == [
        "one two three",
        "one two",
        "three",
    ]
