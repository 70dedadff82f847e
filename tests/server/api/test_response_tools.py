"""Tools and forms of text on /v1/responses: calls that parse, as items and as events, judged by OpenAI's client."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from server.config import read_deployment
from server.runtime import load_runtime

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for call in m.tool_calls or [] %}"
    '{{ \'\n<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}\n</tool_call>' }}"
    "{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ADD: dict[str, Any] = {
    "type": "function",
    "name": "add",
    "description": "adds",
    "parameters": {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
NOW = {"type": "function", "name": "now"}
TOOLS = [ADD, NOW]


@pytest.fixture(scope="module")
def server(
    make_checkpoint: Callable[..., Path], make_tokenizer: Callable[..., Any], serve: Callable[..., Any]
) -> Iterator[Any]:
    """A base that shows tools, and a reward that reads the same."""
    folders = [
        str(
            make_checkpoint(
                "llama",
                f"calls-{seed}",
                seed=seed,
                tokenizer=make_tokenizer(TEMPLATE),
                max_position_embeddings=2048,
            )
        )
        for seed in (1, 2)
    ]
    declared = {
        "model": "tiny",
        "base": {"model": folders[0]},
        "rewards": [{"name": "helpful", "model": folders[1], "default": 0.5}],
    }
    with serve(read_deployment(declared, "test"), load_runtime) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "input": "add", "max_output_tokens": 200, "seed": 1, **fields}


def post(server: Any, **fields: Any) -> httpx.Response:
    with server.client() as client:
        response: httpx.Response = client.post("/v1/responses", json=body(**fields))
    return response


def whole(server: Any, **fields: Any) -> dict[str, Any]:
    response = post(server, **fields)
    assert response.status_code == 200, response.text
    Response.model_validate(response.json(), strict=True)
    return dict(response.json())


def stream(server: Any, **fields: Any) -> list[dict[str, Any]]:
    with (
        server.client() as client,
        client.stream("POST", "/v1/responses", json=body(stream=True, **fields)) as response,
    ):
        assert response.status_code == 200, response.read()
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    for event in events:
        EVENTS.validate_python(event, strict=True)
    return events


def lasting(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items without the ids made for them."""
    return [{key: value for key, value in item.items() if key not in ("id", "call_id")} for item in output]


FORCED: list[Any] = [
    "required",
    {"type": "function", "name": "add"},
    {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "add"}]},
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("choice", FORCED, ids=["required", "named", "allowed"])
def test_a_forced_call_parses_and_streams_as_it_is(server: Any, choice: Any, seed: int) -> None:
    fields = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False, "seed": seed}
    answer, events = whole(server, **fields), stream(server, **fields)
    (call,) = answer["output"]
    assert (call["type"], call["status"], answer["status"]) == ("function_call", "completed", "completed")
    arguments = json.loads(call["arguments"])
    if call["name"] == "add":
        assert arguments["a"] in (1, 2)
        assert arguments["b"] in ("x", "y")
        assert len(arguments) == 2
    else:
        assert (call["name"], choice, arguments) == ("now", "required", {})
    assert call["id"].startswith("fc_")
    assert call["call_id"].startswith("call_")
    assert lasting(events[-1]["response"]["output"]) == lasting(answer["output"])
    types = [event["type"].removeprefix("response.") for event in events]
    deltas = types.count("function_call_arguments.delta")
    assert types == [
        "created",
        "in_progress",
        "output_item.added",
        *["function_call_arguments.delta"] * deltas,
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    said = "".join(event["delta"] for event in events if "delta" in event)
    assert said == call["arguments"]


def test_tools_are_told_back(server: Any) -> None:
    answer = whole(server, tools=TOOLS, tool_choice=FORCED[1])
    assert answer["tool_choice"] == FORCED[1]
    assert [tool["name"] for tool in answer["tools"]] == ["add", "now"]
    assert answer["tools"][0]["parameters"] == ADD["parameters"]
    assert whole(server, tools=TOOLS, tool_choice="none", max_output_tokens=3)["tool_choice"] == "none"


def test_calls_and_what_they_came_to_can_be_sent_back(server: Any) -> None:
    first = whole(server, tools=TOOLS, tool_choice=FORCED[1])
    (call,) = first["output"]
    items = [
        {"role": "user", "content": "add"},
        *first["output"],
        {"type": "function_call_output", "call_id": call["call_id"], "output": "3"},
    ]
    again = whole(server, input=items, tools=TOOLS, tool_choice="none", max_output_tokens=4)
    assert [item["type"] for item in again["output"]] == ["message"]
    read = (
        "<|user|>add<|end|><|assistant|>"
        f'\n<tool_call>\n{{"name": "add", "arguments": {json.dumps(json.loads(call["arguments"]))}}}\n</tool_call>'
        "<|end|><|tool|>3<|end|><|assistant|>"
    )
    with server.client() as client:
        tokens = client.post("/tokenize", json={"prompt": read}).json()["count"]
    assert again["usage"]["input_tokens"] == tokens


def test_a_chat_with_tools_is_tokenized_as_it_is_read(server: Any) -> None:
    tools = [{"type": "function", "function": {k: v for k, v in ADD.items() if k != "type"}}]
    chat = {"messages": [{"role": "user", "content": "add"}], "tools": tools}
    with server.client() as client:
        counted = client.post("/tokenize", json=chat).json()["count"]
        text = client.post("/tokenize", json={"messages": chat["messages"]}).json()["count"]
    assert counted == whole(server, tools=[ADD], max_output_tokens=1)["usage"]["input_tokens"]
    assert counted > text


def test_a_call_cut_at_its_length_is_incomplete(server: Any) -> None:
    answer = whole(server, tools=[ADD], tool_choice="required", max_output_tokens=30)
    assert answer["status"] == answer["output"][0]["status"] == "incomplete"


SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}},
    "required": ["mood"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "name": "mood", "schema": SCHEMA}


def test_text_follows_its_schema(server: Any) -> None:
    answer, events = whole(server, text={"format": FORMAT}), stream(server, text={"format": FORMAT})
    text = answer["output"][0]["content"][0]["text"]
    assert json.loads(text)["mood"] in ("good", "bad")
    assert lasting(events[-1]["response"]["output"]) == lasting(answer["output"])
    assert answer["text"]["format"] == FORMAT


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"text": {"format": {**FORMAT, "schema": {"type": "nothing"}}}}, "text.format.schema"),
    ({"text": {"format": {**FORMAT, "name": "no spaces"}}}, "text.format.name"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{**ADD, "name": "no spaces"}]}, "tools[0].name"),
    ({"tools": [ADD, ADD]}, "tools[1].name"),
    ({"tools": [{**ADD, "function": {}}]}, "tools[0].function"),
    ({"tools": [ADD, {**NOW, "parameters": {"type": "array"}}]}, "tools[1].parameters"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "any", "tools": TOOLS}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "subtract"}}, "tool_choice.name"),
    ({"tools": TOOLS, "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
    (
        {"input": [{"type": "function_call", "call_id": "c", "name": "add", "arguments": "{"}]},
        "input[0].arguments",
    ),
    ({"input": [{"type": "function_call", "name": "add", "arguments": "{}"}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=range(len(REFUSED)))
def test_a_wrong_field_is_named(server: Any, fields: dict[str, Any], param: str) -> None:
    response = post(server, **fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_tools_for_a_template_that_does_not_show_them_are_refused(real: Any) -> None:
    response = post(real, tools=TOOLS)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools"


class Mood(BaseModel):
    mood: Literal["good", "bad"]


def test_openais_client_parses_what_it_asked_for(client: openai.OpenAI) -> None:
    answer = client.responses.parse(model="tiny", input="how?", text_format=Mood, max_output_tokens=60)
    assert answer.output_parsed is not None
    with client.responses.stream(
        model="tiny", input="how?", text_format=Mood, max_output_tokens=60
    ) as events:
        parsed = events.get_final_response().output_parsed
    assert parsed is not None
    assert parsed.mood in ("good", "bad")


def test_openais_stream_helper_collects_calls(client: openai.OpenAI) -> None:
    tools: Any = [{**ADD, "strict": True}]
    with client.responses.stream(
        model="tiny", input="add", tools=tools, tool_choice="required", parallel_tool_calls=False
    ) as events:
        snapshots = [e.snapshot for e in events if e.type == "response.function_call_arguments.delta"]
        final = events.get_final_response()
    (call,) = final.output
    assert call.type == "function_call"
    assert snapshots[-1] == call.arguments
    assert call.parsed_arguments["a"] in (1, 2)  # type: ignore[index]
