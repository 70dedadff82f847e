import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from server.errors import InvalidRequest
from server.structured import (
    ArgumentsPiece,
    CallBegun,
    Content,
    TokenMatcher,
    Tool,
    ToolChoice,
    ToolFormat,
    ToolReader,
    Vocabulary,
    tool_grammar,
)

Compile = Callable[..., Callable[[], TokenMatcher]]
Write = Callable[..., tuple[str, bool]]
TOOLS = (
    Tool("get", {"properties": {"word": {"type": "string", "maxLength": 5}}, "additionalProperties": False}),
    Tool(
        "get_all",
        {
            "type": "object",
            "properties": {"count": {"$ref": "#/$defs/count"}},
            "required": ["count"],
            "additionalProperties": False,
            "$defs": {"count": {"type": "integer", "minimum": 1, "maximum": 99}},
        },
    ),
    Tool("now", None),
)
SCHEMAS = {tool.name: tool.arguments("field") for tool in TOOLS}
ALL = frozenset(SCHEMAS)
MARKS: dict[str, dict[str, list[str]]] = {
    "text": {},
    "shown": {"shown": ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<think>"]},
    "hidden": {"hidden": ["[TOOL_CALLS]", "<tool_call>", "</tool_call>"]},
}


def read(format: ToolFormat, text: str, forced: bool) -> tuple[str, list[tuple[str, str]], ToolReader]:
    reader = ToolReader(format, forced=forced)
    events = reader.push(text) + reader.flush()
    content = "".join(event.text for event in events if isinstance(event, Content))
    names = [event.name for event in events if isinstance(event, CallBegun)]
    arguments = [
        "".join(event.text for event in events if isinstance(event, ArgumentsPiece) and event.index == index)
        for index in range(len(names))
    ]
    return content, list(zip(names, arguments, strict=True)), reader


def is_valid(name: str, arguments: str) -> bool:
    return Draft202012Validator(SCHEMAS[name]).is_valid(json.loads(arguments))


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("style", ["tagged", "bare", "listed", "named"])
@pytest.mark.parametrize("mode", ["required", "named", "auto"])
def test_random_tokens_make_calls_that_parse(
    style: str,
    marks: str,
    mode: Any,
    formats: Mapping[str, ToolFormat],
    make_vocabulary: Callable[..., Vocabulary],
    compile: Compile,
    write: Write,
) -> None:
    format, vocabulary = formats[style], make_vocabulary(**MARKS[marks])
    names = frozenset({"get_all"}) if mode == "named" else ALL
    make = compile(tool_grammar(format, TOOLS, ToolChoice(mode, names), vocabulary), vocabulary)
    made = 0
    for seed in range(10):
        text, ended = write(make(), vocabulary, random.Random(seed), 1000)
        content, calls, reader = read(format, text, mode != "auto")
        made += len(calls)
        assert {name for name, _ in calls} <= names
        if ended:
            assert calls or mode == "auto"
            assert reader.complete == bool(calls)
            assert all(is_valid(name, arguments) for name, arguments in calls)
        if format.marker:
            assert format.marker not in content
        if mode != "auto":
            assert content == ""
    assert made or mode == "auto"


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("style", ["tagged", "bare", "listed", "named"])
def test_a_call_once_begun_is_a_call(
    style: str,
    marks: str,
    formats: Mapping[str, ToolFormat],
    make_vocabulary: Callable[..., Vocabulary],
    compile: Compile,
    write: Write,
) -> None:
    format, vocabulary = formats[style], make_vocabulary(**MARKS[marks])
    make = compile(tool_grammar(format, TOOLS, ToolChoice("auto", ALL), vocabulary), vocabulary)
    begun = ("" if format.marker is None else "Sure: ") + str(format.opening[0])
    for seed in range(10):
        matcher = make()
        for part in vocabulary.split(begun):
            tokens = [part] if isinstance(part, int) else vocabulary.tokens.tokenize_str(part)
            for token in tokens:
                assert matcher.allowed()[token], (begun, token)
                matcher.accept(token)
        assert not matcher.allowed()[0]
        text, ended = write(matcher, vocabulary, random.Random(seed), 1000)
        content, calls, _ = read(format, begun + text, False)
        assert content == ("" if format.marker is None else "Sure:")
        assert calls
        if ended:
            assert all(is_valid(name, arguments) for name, arguments in calls)


def test_text_cannot_spell_what_announces_a_call(
    formats: Mapping[str, ToolFormat], make_vocabulary: Callable[..., Vocabulary], compile: Compile
) -> None:
    vocabulary = make_vocabulary(hidden=["<tool_call>", "</tool_call>"])
    grammar = tool_grammar(formats["tagged"], TOOLS, ToolChoice("auto", ALL), vocabulary)
    matcher = compile(grammar, vocabulary)()
    *spelled, last = [vocabulary.tokens.tokenize_str(character)[0] for character in "a <tool_call>"]
    for token in spelled:
        matcher.accept(token)
    assert not matcher.allowed()[last]
    assert matcher.allowed().any()


def test_marks_that_are_text_may_be_written_in_free_text(
    formats: Mapping[str, ToolFormat], make_vocabulary: Callable[..., Vocabulary], compile: Compile
) -> None:
    vocabulary = make_vocabulary(shown=["<think>"], hidden=["<secret>"])
    for format in (formats["tagged"], formats["bare"]):
        grammar = tool_grammar(format, TOOLS, ToolChoice("auto", ALL), vocabulary)
        allowed = compile(grammar, vocabulary)().allowed()
        assert allowed[300]
        assert not allowed[301]


@pytest.mark.parametrize("style", ["tagged", "listed"])
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_one_call_at_a_time_when_asked(
    style: str,
    mode: Any,
    formats: Mapping[str, ToolFormat],
    vocabulary: Vocabulary,
    compile: Compile,
    write: Write,
) -> None:
    format = formats[style]
    counts = {}
    for parallel in (True, False):
        choice = ToolChoice(mode, frozenset({"now"}), parallel)
        make = compile(tool_grammar(format, TOOLS, choice, vocabulary))
        counts[parallel] = 0
        for seed in range(20):
            matcher = make()
            for token in vocabulary.tokens.tokenize_str(str(format.first[0])):
                matcher.accept(token)
            text, _ = write(matcher, vocabulary, random.Random(seed), 200)
            _, calls, _ = read(format, str(format.first[0]) + text, True)
            counts[parallel] = max(counts[parallel], len(calls))
    assert counts[True] > 1
    assert counts[False] == 1


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        (Tool("f", {"type": "array"}), "tools[0].function.parameters"),
        (Tool("f", {"type": ["object", "null"]}), "tools[0].function.parameters"),
        (Tool("f", {"properties": {"a": {"$ref": "file:///x"}}}), "tools[0].function.parameters"),
    ],
)
def test_parameters_that_are_no_object_s_schema_are_refused(
    tool: Tool, param: str, formats: Mapping[str, ToolFormat], vocabulary: Vocabulary
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        tool_grammar(formats["tagged"], [tool], ToolChoice("auto", frozenset({"f"})), vocabulary)
    assert refused.value.param == param


def test_all_parameters_together_are_bounded(
    formats: Mapping[str, ToolFormat], vocabulary: Vocabulary
) -> None:
    large = {"description": "x" * 60_000}
    tools = [Tool(f"f{index}", large) for index in range(5)]
    choice = ToolChoice("auto", frozenset(tool.name for tool in tools))
    with pytest.raises(InvalidRequest, match="together"):
        tool_grammar(formats["tagged"], tools, choice, vocabulary)


def test_many_functions_compile(
    formats: Mapping[str, ToolFormat], vocabulary: Vocabulary, compile: Compile
) -> None:
    tools = [Tool(f"function_{index}", SCHEMAS["get"]) for index in range(128)]
    choice = ToolChoice("required", frozenset(tool.name for tool in tools))
    compile(tool_grammar(formats["tagged"], tools, choice, vocabulary))
