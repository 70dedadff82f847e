"""Tool calls over a socket: tiny random models make calls that parse, in the format of their own chat template."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from jsonschema import Draft202012Validator
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tokenizers import AddedToken

from server.config import read_deployment
from server.runtime import load_runtime

TAGGED = (
    "{% if tools %}<|system|>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}"
    '{{ \'\n<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}\n</tool_call>' }}"
    "{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BARE = (
    "{% for m in messages %}{% if m.tool_calls %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    '<|assistant|>{"name": "{{ m.tool_calls[0].function.name }}", '
    '"parameters": {{ m.tool_calls[0].function.arguments | tojson }}}<|end|>'
    "{% else %}<|{{ m.role }}|>{% if m.role == 'user' and tools %}{{ tools | tojson }}{% endif %}{{ m.content }}<|end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LISTED = (
    "{% for m in messages %}{% if m.role == 'user' %}{% if tools %}[TOOLS]{{ tools | tojson }}{% endif %}"
    "[INST]{{ m.content }}[/INST]"
    "{% elif m.tool_calls %}[TOOL_CALLS] [{% for call in m.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    '{% set text = call.function | tojson %}{{ text[:-1] }}, "id": "{{ call.id }}"}{% if not loop.last %}, {% endif %}'
    "{% endfor %}]<|end|>"
    "{% elif m.role == 'assistant' %} {{ m.content }}<|end|>"
    "{% else %}[RESULTS]{{ m.tool_call_id }} {{ m.content }}[/RESULTS]{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
STYLES = {"tagged": TAGGED, "bare": BARE, "listed": LISTED}

Open = Callable[[str], Any]


def a_tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}


GET = a_tool("get", word={"type": "string", "maxLength": 4})
ADD = a_tool("add", a={"type": "integer", "minimum": 0, "maximum": 9}, b={"enum": [1, 2]})
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = [GET, ADD, NOW]
NAMED = {"type": "function", "function": {"name": "add"}}


@pytest.fixture(scope="module")
def opened(
    make_checkpoint: Callable[..., Path],
    make_tokenizer: Callable[..., Any],
    serve: Callable[..., contextlib.AbstractContextManager[Any]],
) -> Iterator[Open]:
    """``opened("tagged")``: a server whose base has this style, whose rewards have none and another one."""
    room: dict[str, Any] = {"max_position_embeddings": 2048}
    with contextlib.ExitStack() as stack:
        servers: dict[str, Any] = {}

        def tokenizer(template: str) -> Any:
            made = make_tokenizer(template)
            # The marks of calls are tokens of their own, in one style hidden ones.
            made.backend_tokenizer.add_tokens([AddedToken("<tool_call>"), AddedToken("</tool_call>")])
            made.add_special_tokens(
                {"additional_special_tokens": ["[TOOL_CALLS]"]}, replace_extra_special_tokens=False
            )
            return made

        def checkpoint(kind: str, name: str, seed: int, template: str) -> str:
            return str(make_checkpoint(kind, name, seed=seed, tokenizer=tokenizer(template), **room))

        def make(style: str) -> Any:
            if style not in servers:
                base = STYLES.get(style, PLAIN)
                declared = {
                    "model": "tiny",
                    "base": {"model": checkpoint("llama", f"tools-{style}", 1, base)},
                    "rewards": [
                        {
                            "name": "plain",
                            "model": checkpoint("llama", "tools-plain", 2, PLAIN),
                            "default": 0.5,
                        },
                        {
                            "name": "other",
                            "model": checkpoint("llama", "tools-other", 3, LISTED),
                            "default": 0.5,
                        },
                    ],
                }
                servers[style] = stack.enter_context(serve(read_deployment(declared, "test"), load_runtime))
            return servers[style]

        yield make


def check(call: dict[str, Any]) -> None:
    """A call of one of ``TOOLS`` whose arguments follow its schema."""
    assert call["type"] == "function"
    schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in TOOLS}
    schema = schemas[call["function"]["name"]]
    arguments = json.loads(call["function"]["arguments"])
    assert arguments == {} if schema is None else Draft202012Validator(schema).is_valid(arguments)


@pytest.mark.parametrize("style", STYLES)
def test_forced_calls_parse_every_time(opened: Open, style: str) -> None:
    server = opened(style)
    for seed in range(6):
        asked = {
            "tools": TOOLS,
            "parallel_tool_calls": False,
            "seed": seed,
            "temperature": 1.5,
            "max_tokens": 200,
        }
        (choice,) = server.chat(tool_choice="required", **asked).json()["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        check(call)
        assert len(call["id"]) == (9 if style == "listed" else 29)
        (choice,) = server.chat(tool_choice=NAMED, **asked).json()["choices"]
        assert choice["finish_reason"] == "stop"
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "add"
        check(call)


def test_only_allowed_tools_are_called(opened: Open) -> None:
    names = set()
    for seed in range(6):
        allowed = {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": n}} for n in ("now", "add")],
        }
        choice = {"type": "allowed_tools", "allowed_tools": allowed}
        asked = {"tools": TOOLS, "tool_choice": choice, "seed": seed, "temperature": 2, "max_tokens": 60}
        (one,) = opened("tagged").chat(parallel_tool_calls=False, **asked).json()["choices"]
        names.add(one["message"]["tool_calls"][0]["function"]["name"])
    assert names == {"now", "add"}


@pytest.mark.parametrize("style", ["tagged", "listed"])
def test_several_calls_in_one_answer_each_parse(opened: Open, style: str) -> None:
    most = 0
    for seed in range(8):
        asked = {"tools": [NOW], "tool_choice": "required", "seed": seed, "temperature": 2, "max_tokens": 300}
        (choice,) = opened(style).chat(**asked).json()["choices"]
        calls = choice["message"]["tool_calls"]
        whole = calls if choice["finish_reason"] == "tool_calls" else calls[:-1]
        for call in whole:
            check(call)
        most = max(most, len(whole))
        assert len({call["id"] for call in calls}) == len(calls)
    assert most > 1


def joined(chunks: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """The message of a stream, put together as clients do."""
    content, calls, reason = "", [], None  # type: ignore[var-annotated]
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] != index:
                continue
            delta = choice["delta"]
            content += delta.get("content") or ""
            for part in delta.get("tool_calls") or []:
                if part["index"] == len(calls):
                    calls.append(
                        {
                            "type": part["type"],
                            "function": {"name": part["function"]["name"], "arguments": ""},
                        }
                    )
                    assert part["id"]
                else:
                    assert part["index"] == len(calls) - 1
                    assert "id" not in part
                calls[-1]["function"]["arguments"] += part["function"]["arguments"]
            assert reason is None
            reason = choice["finish_reason"]
    return {"content": content, "calls": calls, "reason": reason}


def said(choice: dict[str, Any]) -> dict[str, Any]:
    """The same of a choice that was not streamed; ids are drawn anew each time."""
    message = choice["message"]
    calls = [{key: call[key] for key in ("type", "function")} for call in message.get("tool_calls") or []]
    return {"content": message["content"] or "", "calls": calls, "reason": choice["finish_reason"]}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("mode", ["auto", "required", NAMED])
def test_streamed_is_whole(opened: Open, style: str, mode: Any) -> None:
    asked = {"tools": TOOLS, "tool_choice": mode, "n": 2, "seed": 3, "temperature": 1.2, "max_tokens": 80}
    whole = opened(style).chat(**asked).json()
    ChatCompletion.model_validate_json(json.dumps(whole), strict=True)
    chunks = opened(style).stream(**asked)
    for chunk in chunks:
        ChatCompletionChunk.model_validate_json(json.dumps(chunk), strict=True)
    for index, choice in enumerate(whole["choices"]):
        assert joined(chunks, index) == said(choice)


def test_arguments_stream_piece_by_piece(opened: Open) -> None:
    tool = a_tool("say", text={"type": "string", "minLength": 20, "maxLength": 20})
    named = {"type": "function", "function": {"name": "say"}}
    chunks = opened("tagged").stream(tools=[tool], tool_choice=named, seed=1, max_tokens=200)
    parts = [
        part
        for chunk in chunks
        for choice in chunk["choices"]
        for part in choice["delta"].get("tool_calls") or []
    ]
    assert parts[0]["function"] == {"name": "say", "arguments": ""}
    assert len(parts) > 10


def biased(text: str, server: Any) -> dict[str, int]:
    """A bias to tokens of ``text``, so that a random model says such."""
    tokenizer = server.serving.runtime.tokenizer
    return {str(token): 100 for token in tokenizer.codec.encode(text, add_special_tokens=False)}


def test_a_model_that_is_free_to_call_says_text_or_calls(opened: Open) -> None:
    server = opened("tagged")
    mark = biased("<tool_call>", server)
    asked = {"tools": TOOLS, "seed": 1, "temperature": 1, "parallel_tool_calls": False}
    (called,) = server.chat(logit_bias=mark, max_tokens=200, **asked).json()["choices"]
    assert called["finish_reason"] == "tool_calls"
    check(called["message"]["tool_calls"][0])
    (spoken,) = server.chat(logit_bias=dict.fromkeys(mark, -100), max_tokens=30, **asked).json()["choices"]
    assert "tool_calls" not in spoken["message"]
    assert spoken["message"]["content"]


def test_hidden_marks_are_read_and_not_shown(opened: Open) -> None:
    server = opened("listed")
    mark = biased("[TOOL_CALLS]", server)
    asked = {"tools": TOOLS, "seed": 1, "parallel_tool_calls": False, "max_tokens": 200, "logit_bias": mark}
    (called,) = server.chat(**asked).json()["choices"]
    assert called["finish_reason"] == "tool_calls"
    assert called["message"]["content"] is None
    assert joined(server.stream(**asked)) == said(called)


def test_no_tool_is_called_when_none_may_be(opened: Open) -> None:
    server = opened("tagged")
    mark = biased("<tool_call>", server)
    asked = {"seed": 1, "max_tokens": 12, "logit_bias": mark}
    none = server.chat(tools=TOOLS, tool_choice="none", **asked).json()
    assert none["choices"][0]["message"].get("tool_calls") is None
    assert none["usage"] == server.chat(**asked).json()["usage"]  # the model is not told of them either


def test_a_call_that_is_cut_off_is_no_finished_call(opened: Open) -> None:
    asked = {"tools": TOOLS, "tool_choice": NAMED, "seed": 1}
    for tokens in (1, 20, 40):
        (choice,) = opened("tagged").chat(max_tokens=tokens, **asked).json()["choices"]
        assert choice["finish_reason"] == "length"
        assert "<tool_call>" not in (choice["message"]["content"] or "")
    (stopped,) = opened("tagged").chat(max_tokens=200, stop='"a"', **asked).json()["choices"]
    assert stopped["finish_reason"] == "stop"
    assert (
        stopped["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": "{"}
        or stopped["message"]["tool_calls"][0]["function"]["arguments"] == "{ "
    )


def test_log_probs_cover_every_token_of_a_call(opened: Open) -> None:
    asked = {"tools": TOOLS, "tool_choice": NAMED, "seed": 1, "logprobs": True, "max_tokens": 200}
    answer = opened("tagged").chat(**asked).json()
    tokens = answer["choices"][0]["logprobs"]["content"]
    assert len(tokens) == answer["usage"]["completion_tokens"]
    assert "".join(token["token"] for token in tokens).startswith('\n<tool_call>\n{"name": "add"')
    streamed = [
        token
        for chunk in opened("tagged").stream(**asked)
        for choice in chunk["choices"]
        for token in (choice["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == tokens


def test_json_or_calls_where_both_are_asked_for(opened: Open) -> None:
    server = opened("tagged")
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    asked = {
        "tools": TOOLS,
        "response_format": form,
        "seed": 1,
        "max_tokens": 200,
        "parallel_tool_calls": False,
    }
    mark = biased("<tool_call>", server)
    (called,) = server.chat(logit_bias=mark, **asked).json()["choices"]
    check(called["message"]["tool_calls"][0])
    (spoken,) = server.chat(logit_bias=dict.fromkeys(mark, -100), **asked).json()["choices"]
    assert spoken["finish_reason"] == "stop"
    assert isinstance(json.loads(spoken["message"]["content"])["a"], bool)
    refused = opened("bare").chat(**asked)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "response_format"
    assert opened("bare").chat(**asked, tool_choice="none").status_code == 200


def test_calls_and_results_go_back_to_every_template(opened: Open) -> None:
    """Also to a reward that shows no calls, and to one whose ids are shorter."""
    for style in STYLES:
        server = opened(style)
        asked = {
            "tools": TOOLS,
            "tool_choice": NAMED,
            "seed": 1,
            "max_tokens": 200,
            "parallel_tool_calls": False,
        }
        message = server.chat(**asked).json()["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "3"}
        messages = [{"role": "user", "content": "hello"}, message, result]
        again = server.chat(messages=messages, tools=TOOLS, max_tokens=5)
        assert again.status_code == 200, again.json()
        assert server.chat(messages=messages, max_tokens=5).status_code == 200


def a_chat(*calls: Any, role: str = "assistant", **fields: Any) -> dict[str, Any]:
    message = {"role": role, "tool_calls": list(calls), **fields}
    return {"messages": [{"role": "user", "content": "hello"}, message]}


def a_call(**function: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "get", "arguments": "{}", **function}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{**GET, "type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [a_tool("a b")]}, "tools[0].function.name"),
        ({"tools": [a_tool("a" * 65)]}, "tools[0].function.name"),
        ({"tools": [GET, ADD, GET]}, "tools[2].function.name"),
        ({"tools": [a_tool(f"f{i}") for i in range(129)]}, "tools"),
        ({"tools": [a_tool("f", a={"not": {}})]}, "tools"),
        (
            {
                "tools": [
                    GET,
                    {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}},
                ]
            },
            "tools[1].function.parameters",
        ),
        ({"tools": [GET], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [GET], "tool_choice": 5}, "tool_choice"),
        ({"tools": [GET], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [GET], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"tools": [GET], "tool_choice": NAMED}, "tool_choice.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": NAMED}, "tool_choice"),
        (
            {
                "tools": [GET],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [NAMED]},
                },
            },
            "tool_choice.allowed_tools.tools[0].function.name",
        ),
        (a_chat(a_call(arguments="{")), "messages[1].tool_calls[0].function.arguments"),
        (a_chat(a_call(), a_call(arguments="[]")), "messages[1].tool_calls[1].function.arguments"),
        (a_chat(a_call(arguments="[" * 100_000)), "messages[1].tool_calls[0].function.arguments"),
        (a_chat(a_call(arguments={})), "messages[1].tool_calls[0].function.arguments"),
        (a_chat(a_call(arguments='{"a": "\\ud800"}')), "messages[1].tool_calls[0].function.arguments"),
        (a_chat(a_call(arguments='{"a": NaN}')), "messages[1].tool_calls[0].function.arguments"),
        (
            a_chat(a_call(arguments='{"a": ' + "9" * 5000 + "}")),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (a_chat(a_call(name="a b")), "messages[1].tool_calls[0].function.name"),
        (a_chat(a_call(), role="user", content="hi"), "messages[1].tool_calls"),
        (a_chat(content=None), "messages[1].content"),
        (a_chat(), "messages[1].content"),
    ],
)
def test_what_is_wrong_with_tools_is_refused_by_name(
    opened: Open, fields: dict[str, Any], param: str
) -> None:
    response = opened("tagged").chat(**fields)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["param"] == param
    assert len(error["message"]) < 500


def test_a_template_without_tools_is_a_refusal_that_says_so(opened: Open) -> None:
    response = opened("plain").chat(tools=TOOLS)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "tools"
    assert "chat template" in error["message"]
    assert opened("plain").chat(tools=TOOLS, tool_choice="none", max_tokens=2).status_code == 200
    history = a_chat(a_call())
    assert opened("plain").chat(**history).json()["error"]["param"] == "messages"


def test_the_openai_client_streams_and_replays_calls(opened: Open) -> None:
    messages: list[Any] = [{"role": "user", "content": "hello"}]
    asked: Any = {"model": "tiny", "tools": TOOLS, "max_tokens": 200, "seed": 2}
    with openai.OpenAI(base_url=f"{opened('tagged').url}/v1", api_key="none", max_retries=0) as client:
        chat = client.chat.completions
        with chat.stream(messages=messages, tool_choice=NAMED, parallel_tool_calls=False, **asked) as stream:
            message = stream.get_final_completion().choices[0].message
        assert message.tool_calls
        assert json.loads(message.tool_calls[0].function.arguments)["b"] in (1, 2)
        messages += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "4"}]
        again = chat.create(messages=messages, **asked | {"max_tokens": 3})
        assert again.usage
        assert again.usage.completion_tokens <= 3
