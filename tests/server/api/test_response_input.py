"""A response's request becomes a chat; what is wrong with the chat is said in the request's own words."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from server.api.body import parse
from server.api.response_input import AskedChat
from server.api.schema.responses import ResponseRequest
from server.errors import InvalidRequest


def asked(**fields: Any) -> AskedChat:
    return AskedChat(parse(ResponseRequest, to_json({"model": "tiny", "input": "hi", **fields})))


def chat(**fields: Any) -> dict[str, Any]:
    """The chat as a client would have sent it."""
    return asked(**fields).body.model_dump(exclude_none=True, by_alias=True, mode="json")


def call(id: str, name: str = "get", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": id, "name": name, "arguments": arguments}


def said(id: str, name: str = "get", arguments: str = "{}") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_instructions_come_before_the_input() -> None:
    assert chat(instructions="be brief")["messages"] == [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]


def test_calls_are_part_of_the_message_they_follow_and_outputs_answer_them() -> None:
    items = [
        {"role": "user", "content": "two, please"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "so"}]},
        call("a"),
        call("b", arguments='{"x": 1}'),
        {"type": "function_call_output", "call_id": "a", "output": "one"},
        {
            "type": "function_call_output",
            "call_id": "b",
            "output": [{"type": "input_text", "text": "two"}],
        },
        call("c"),
    ]
    assert chat(input=items)["messages"] == [
        {"role": "user", "content": "two, please"},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "so"}],
            "tool_calls": [said("a"), said("b", arguments='{"x": 1}')],
        },
        {"role": "tool", "content": "one", "tool_call_id": "a"},
        {"role": "tool", "content": [{"type": "text", "text": "two"}], "tool_call_id": "b"},
        {"role": "assistant", "tool_calls": [said("c")]},
    ]


def test_more_calls_than_a_message_may_have_are_two_messages() -> None:
    messages = chat(input=[call(str(i)) for i in range(300)])["messages"]
    assert [len(message["tool_calls"]) for message in messages] == [128, 128, 44]


def test_sampling_and_guidance_are_the_chats() -> None:
    same: dict[str, Any] = {
        "preferences": {"helpful": 2.0},
        "guidance": {"beta": 2.0, "report": "summary"},
        "temperature": 0.5,
        "seed": 3,
        "stop": ["x"],
        "stop_token_ids": [4],
        "logit_bias": {"5": 1.0},
        "stream": True,
    }
    made = chat(**same, max_output_tokens=7, include=["message.output_text.logprobs"], top_logprobs=2)
    assert {key: made[key] for key in same} == same
    assert (made["max_completion_tokens"], made["logprobs"], made["top_logprobs"]) == (7, True, 2)


def test_a_format_is_the_chats_response_format() -> None:
    schema = {"type": "object"}
    format = {"type": "json_schema", "name": "n", "description": "d", "schema": schema, "strict": True}
    assert chat(text={"format": format})["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "n", "description": "d", "schema": schema, "strict": True},
    }
    assert chat(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}


TOOLS = [{"type": "function", "name": "get", "parameters": {"type": "object"}, "strict": True}]


@pytest.mark.parametrize(
    ("choice", "chats"),
    [
        ("required", "required"),
        ({"type": "function", "name": "get"}, {"type": "function", "function": {"name": "get"}}),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get"}]},
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "get"}}],
                },
            },
        ),
    ],
    ids=["mode", "named", "allowed"],
)
def test_tools_and_their_choice_are_the_chats(choice: Any, chats: Any) -> None:
    made = chat(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    function = {"name": "get", "parameters": {"type": "object"}, "strict": True}
    assert made["tools"] == [{"type": "function", "function": function}]
    assert made["tool_choice"] == chats
    assert made["parallel_tool_calls"] is False


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "text", "name": "n"}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_object", "schema": {}}}}, "text.format.schema"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "tool_choice.tools"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "name": "get", "mode": "auto"}},
            "tool_choice.mode",
        ),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked(**fields)
    assert refused.value.param == param


ITEMS = [{"role": "user", "content": "x"}, call("a"), call("b"), {"role": "user", "content": "y"}]


@pytest.mark.parametrize(
    ("fields", "chats", "own"),
    [
        ({}, "messages", "input"),
        ({}, "messages[0].content", "input.content"),
        ({"instructions": "x"}, "messages[0]", "instructions"),
        ({"instructions": "x", "input": ITEMS}, "messages[3].content", "input[3].content"),
        ({"input": ITEMS}, "messages[1].tool_calls[1].function.arguments", "input[2].arguments"),
        ({"input": ITEMS}, "messages[1].tool_calls[0].id", "input[1].id"),
        ({}, "response_format.json_schema.schema", "text.format.schema"),
        ({}, "response_format", "text.format"),
        ({}, "tools[12].function.parameters", "tools[12].parameters"),
        ({}, "tools", "tools"),
        ({}, "tool_choice.function.name", "tool_choice.name"),
        ({}, "tool_choice.allowed_tools.tools[1].function.name", "tool_choice.tools[1].name"),
        ({}, "stop_token_ids[0]", "stop_token_ids[0]"),
    ],
)
def test_a_chats_errors_name_the_requests_fields(fields: dict[str, Any], chats: str, own: str) -> None:
    with pytest.raises(InvalidRequest) as refused, asked(**fields).named():
        raise InvalidRequest(f"Invalid '{chats}': no.", param=chats)
    assert refused.value.param == own
    assert refused.value.message == f"Invalid '{own}': no."


NAMES = st.sampled_from(["get", "add", "", "no spaces", "x" * 65])
SCALARS = st.none() | st.booleans() | st.integers(-2, 25) | st.floats(-3, 3) | st.text(max_size=5) | NAMES
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "text"]), "text": st.text(max_size=5)},
    optional={"annotations": st.just([]) | SCALARS, "logprobs": st.just([{}]) | SCALARS},
)
CONTENTS = st.text(max_size=5) | st.lists(PARTS, max_size=3) | SCALARS
ANY_ITEM = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "developer", "tool"]), "content": CONTENTS},
        optional={"type": st.just("message") | SCALARS, "status": st.just("completed") | SCALARS},
    ),
    st.fixed_dictionaries(
        {"type": st.just("function_call"), "call_id": NAMES, "name": NAMES, "arguments": st.text(max_size=5)}
    ),
    st.fixed_dictionaries({"type": st.just("function_call_output"), "call_id": NAMES, "output": CONTENTS}),
)
FUNCTIONS = st.fixed_dictionaries(
    {"type": st.just("function"), "name": NAMES},
    optional={"parameters": st.just({"type": "object"}) | SCALARS, "strict": SCALARS, "description": SCALARS},
)
CHOICES = st.sampled_from(["none", "auto", "required"]) | st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "allowed_tools", "mcp"])},
    optional={
        "name": NAMES,
        "mode": st.sampled_from(["auto", "required", "x"]),
        "tools": st.lists(FUNCTIONS, max_size=2),
    },
)
FORMATS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "json_object", "json_schema", "x"])},
    optional={"name": NAMES, "schema": st.just({}) | SCALARS, "strict": SCALARS, "description": SCALARS},
)
BODIES = st.fixed_dictionaries(
    {"input": st.text(max_size=5) | st.lists(ANY_ITEM, max_size=4) | SCALARS},
    optional={
        "instructions": SCALARS,
        "text": st.fixed_dictionaries({}, optional={"format": FORMATS | SCALARS, "verbosity": SCALARS}),
        "tools": st.lists(FUNCTIONS, max_size=2) | SCALARS,
        "tool_choice": CHOICES | SCALARS,
        "parallel_tool_calls": SCALARS,
        "max_output_tokens": SCALARS,
        "top_logprobs": SCALARS,
        "include": st.just(["message.output_text.logprobs"]) | SCALARS,
        "temperature": SCALARS,
        "stop": st.lists(st.text(max_size=3), max_size=3) | SCALARS,
        "metadata": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2) | SCALARS,
    },
)


@settings(max_examples=500, deadline=None)
@given(body=BODIES)
def test_any_request_becomes_a_chat_or_is_refused(body: dict[str, Any]) -> None:
    try:
        asked(**body)
    except InvalidRequest as refused:
        assert refused.param
