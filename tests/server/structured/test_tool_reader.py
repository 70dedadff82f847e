import itertools
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.structured import (
    ArgumentsPiece,
    CallBegun,
    CallStyle,
    Content,
    Event,
    ToolCall,
    ToolFormat,
    ToolReader,
)
from server.structured.tool_format import Slot

FORMATS = {
    "tagged": ToolFormat(
        ('\n<tool_call>\n{"name": "',),
        ('", "arguments": ',),
        ('}\n</tool_call>\n<tool_call>\n{"name": "',),
        ("}\n</tool_call>",),
    ),
    "bare": ToolFormat(('{"name": "',), ('", "parameters": ',), None, ("}",)),
    "listed": ToolFormat(
        ('[CALLS] [{"name": "',),
        ('", "arguments": ',),
        (', "id": "', Slot.ID, '"}, {"name": "'),
        (', "id": "', Slot.ID, '"}]'),
        style=CallStyle(short_ids=True),
    ),
}
PIECES = st.sampled_from(
    [
        *(
            "hello",
            " ",
            "\n",
            "<tool",
            "_call>",
            "<tool_call>",
            '\n{"name": "',
            "[CALLS]",
            ' [{"name": "',
            "get",
        ),
        *('", "arguments": ', '", "parameters": ', '{"a": "}\\""}', "}", "\n</tool_call>", '{"'),
        *(', "id": "', "abcdefghi"),
    ]
)


def read(format: ToolFormat, pieces: Sequence[str], *, forced: bool = False) -> tuple[list[Any], ToolReader]:
    """Content and calls, each in one piece; ids are left out."""
    reader = ToolReader(format, forced=forced)
    events: list[Event] = []
    for piece in pieces:
        events += reader.push(piece)
    events += reader.flush()
    said: list[Any] = []
    for event in events:
        match event:
            case Content(text) if said and isinstance(said[-1], str):
                said[-1] += text
            case Content(text):
                said.append(text)
            case CallBegun(index, _, name):
                assert index == sum(isinstance(one, list) for one in said)
                said.append([name, ""])
            case ArgumentsPiece(index, text):
                assert text
                assert said[-1] is [one for one in said if isinstance(one, list)][index]
                said[-1][1] += text
    return said, reader


def calls(format: ToolFormat, *named: tuple[str, dict[str, Any]]) -> str:
    return format.write([ToolCall(format.new_id(), name, json.dumps(args)) for name, args in named])


ARGUMENTS: Mapping[str, Any] = {"word": 'a "quoted" } brace \\', "list": [{"deep": {}}]}


@pytest.mark.parametrize("style", FORMATS)
def test_what_is_written_is_read(style: str) -> None:
    format = FORMATS[style]
    asked = [("get", dict(ARGUMENTS)), ("get_all", {})][: 1 if format.next is None else 2]
    said, reader = read(format, [calls(format, *asked)], forced=True)
    assert [(name, json.loads(arguments)) for name, arguments in said] == asked
    assert reader.complete
    assert reader.calls == len(asked)


def test_text_before_a_call_is_content_without_the_white_space_between() -> None:
    format = FORMATS["tagged"]
    said, _ = read(format, ["Let me see. " + calls(format, ("get", {}))])
    assert said == ["Let me see.", ["get", "{}"]]


def test_text_without_a_call_is_all_content() -> None:
    for format in FORMATS.values():
        for text in ("hello", " a <tool_ {\n", '{"nam', "[CALLS", ' {"name": "x'):
            said, reader = read(format, list(text))
            assert said == [text]
            assert reader.calls == 0


def test_a_call_that_can_only_open_the_answer_is_text_later() -> None:
    format = FORMATS["bare"]
    text = "so: " + calls(format, ("get", {}))
    assert read(format, [text])[0] == [text]
    assert read(format, [calls(format, ("get", {}))])[0] == [["get", "{}"]]


@pytest.mark.parametrize("style", FORMATS)
def test_a_call_that_is_torn_off_says_what_it_has(style: str) -> None:
    format = FORMATS[style]
    text = calls(format, ("get", {"a": 1}))
    for end in range(len(text)):
        said, reader = read(format, [text[:end]], forced=True)
        assert not reader.complete
        assert said in ([], [["get", said[0][1] if said else ""]])
        assert not said or '{"a": 1}'.startswith(said[0][1])


def test_an_announcement_that_is_torn_off_is_no_content() -> None:
    said, reader = read(FORMATS["tagged"], ["hello\n<tool_call>\n{"])
    assert said == ["hello"]
    assert reader.calls == 0


def test_names_and_arguments_come_as_soon_as_they_are_there() -> None:
    format = FORMATS["tagged"]
    reader = ToolReader(format, forced=True)
    text = calls(format, ("get", {"a": "bcd"}))
    begun = text.index('get"') + 4
    (call,) = reader.push(text[:begun])
    assert isinstance(call, CallBegun)
    assert len(call.id) == 29
    at = text.index("bc")
    assert reader.push(text[begun:at]) == [ArgumentsPiece(0, '{"a": "')]
    assert reader.push(text[at : at + 1]) == [ArgumentsPiece(0, "b")]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.lists(PIECES, max_size=14), st.booleans(), st.integers())
def test_the_cuts_between_pieces_change_nothing(
    style: str, pieces: list[str], forced: bool, seed: int
) -> None:
    text, draw = "".join(pieces), random.Random(seed)
    cuts = sorted({0, len(text), *(draw.randint(0, len(text)) for _ in range(8))})
    torn = [text[begin:end] for begin, end in itertools.pairwise(cuts)]
    whole, reader = read(FORMATS[style], [text], forced=forced)
    for cut in (torn, list(text)):
        said, other = read(FORMATS[style], cut, forced=forced)
        assert said == whole
        assert (other.calls, other.complete) == (reader.calls, reader.complete)
