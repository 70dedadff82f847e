"""/v1/responses: a chat in OpenAI's newer words, judged by OpenAI's own client and types."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
LOGPROBS = ["message.output_text.logprobs"]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "input": "hello", **fields}


def post(server: Any, **fields: Any) -> httpx.Response:
    with server.client() as client:
        response: httpx.Response = client.post("/v1/responses", json=body(**fields))
    return response


def whole(server: Any, **fields: Any) -> dict[str, Any]:
    """One response, valid as OpenAI's type and with all its fields named."""
    response = post(server, **fields)
    assert response.status_code == 200, response.text
    return checked(response.json())


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    Response.model_validate(answer, strict=True)
    assert set(answer) - {"guidance", "system_fingerprint", "store"} <= set(Response.model_fields)
    return answer


def parse(lines: Iterator[str]) -> list[dict[str, Any]]:
    """The events of a stream, in the frames of server-sent events."""
    events = []
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            events.append(json.loads(line.removeprefix("data: ")))
            assert events[-1]["type"] == name
        else:
            assert line == "" or line.startswith(": ")
    return events


def stream(server: Any, **fields: Any) -> list[dict[str, Any]]:
    """The events of one stream, each valid as OpenAI's type, numbered and framed."""
    with (
        server.client() as client,
        client.stream("POST", "/v1/responses", json=body(stream=True, **fields)) as response,
    ):
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        events = parse(response.iter_lines())
    for number, event in enumerate(events):
        assert event["sequence_number"] == number
        EVENTS.validate_python(event, strict=True)
        if "response" in event:
            checked(event["response"])
    return events


def said(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def error(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    found = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert len(response.content) < 1500
    return dict(found)


def lasting(answer: dict[str, Any]) -> dict[str, Any]:
    """What two responses to the same request have in common."""
    text = json.loads(json.dumps(answer))
    for key in ("id", "created_at", "completed_at"):
        del text[key]
    for item in text["output"]:
        del item["id"]
    return dict(text)


def test_a_response_says_all_that_openais_says(scripted: Callable[..., Any]) -> None:
    with scripted("abc <|end|>") as server:
        server.engine.free()
        answer = whole(server, metadata={"a": "b"}, user="u", instructions="be brief", temperature=0.5)
    assert answer["id"].startswith("resp_")
    assert (answer["object"], answer["status"]) == ("response", "completed")
    assert answer["completed_at"] >= answer["created_at"]
    assert (answer["error"], answer["incomplete_details"]) == (None, None)
    (item,) = answer["output"]
    assert item == {
        "id": item["id"],
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "abc ", "annotations": [], "logprobs": []}],
    }
    assert item["id"].startswith("msg_")
    assert answer["usage"] == {
        "input_tokens": answer["usage"]["input_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer["usage"]["output_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer["usage"]["input_tokens"] + answer["usage"]["output_tokens"],
    }
    echoed = {"metadata": {"a": "b"}, "user": "u", "instructions": "be brief", "temperature": 0.5}
    neutral = {
        "model": "tiny",
        "store": False,
        "truncation": "disabled",
        "previous_response_id": None,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}},
        "top_p": 1.0,
        "reasoning": {"effort": None, "summary": None},
    }
    assert {key: answer[key] for key in echoed | neutral} == echoed | neutral


def test_the_events_come_in_openais_order(scripted: Callable[..., Any]) -> None:
    with scripted("abc <|end|>") as server:
        server.engine.free()
        events = stream(server)
    types = [event["type"] for event in events]
    deltas = types.count("response.output_text.delta")
    assert deltas > 1
    assert types == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert said(events) == "abc "
    created, added, text, part, item, last = (events[i] for i in (0, 2, -4, -3, -2, -1))
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert created["response"]["usage"] is None
    assert (added["item"]["status"], added["item"]["content"]) == ("in_progress", [])
    assert text["text"] == part["part"]["text"] == "abc "
    assert last["response"]["output"] == [item["item"]]
    assert item["item"]["content"] == [part["part"]]
    assert {event["item_id"] for event in events if "item_id" in event} == {item["item"]["id"]}
    assert {event["response"]["id"] for event in events if "response" in event} == {last["response"]["id"]}


COMBINATIONS: list[dict[str, Any]] = [
    {},
    {"include": LOGPROBS},
    {"include": LOGPROBS, "top_logprobs": 3, "temperature": 0.7, "top_p": 0.9},
    {"model": "tiny:kind", "guidance": {"beta": 2.0, "report": "summary"}},
    {"preferences": {"helpful": -1.0}, "stop": ["e"], "include": LOGPROBS},
    {"instructions": "be brief", "top_k": 5, "ignore_eos": True, "include": LOGPROBS, "top_logprobs": 1},
]


@pytest.mark.parametrize("fields", COMBINATIONS, ids=range(len(COMBINATIONS)))
def test_a_stream_says_what_the_whole_response_has(real: Any, fields: dict[str, Any]) -> None:
    fields = {"seed": 7, "max_output_tokens": 24, **fields}
    answer, events = whole(real, **fields), stream(real, **fields)
    assert events[-1]["type"] == f"response.{answer['status']}"
    assert lasting(events[-1]["response"]) == lasting(answer)
    (item,) = answer["output"]
    assert said(events) == item["content"][0]["text"]
    logprobs = [one for event in events if "delta" in event for one in event["logprobs"]]
    assert logprobs == item["content"][0]["logprobs"]
    assert len(logprobs) == ("include" in fields) * answer["usage"]["output_tokens"]


@pytest.mark.parametrize("fields", COMBINATIONS, ids=range(len(COMBINATIONS)))
def test_a_response_is_the_chats_answer(real: Any, fields: dict[str, Any]) -> None:
    answer = whole(real, seed=7, max_output_tokens=24, **fields)
    chat = {"seed": 7, "max_tokens": 24, **fields}
    messages = [{"role": "user", "content": "hello"}]
    if "instructions" in chat:
        messages.insert(0, {"role": "system", "content": chat.pop("instructions")})
    if chat.pop("include", None):
        chat["logprobs"] = True
    same = real.chat(messages=messages, **chat).json()
    part = answer["output"][0]["content"][0]
    assert part["text"] == same["choices"][0]["message"]["content"]
    if chat.get("logprobs"):
        assert part["logprobs"] == same["choices"][0]["logprobs"]["content"]
    assert answer["usage"]["input_tokens"] == same["usage"]["prompt_tokens"]
    assert answer["usage"]["output_tokens"] == same["usage"]["completion_tokens"]
    assert answer["guidance"] == same["guidance"]
    assert (
        answer["status"] == {"stop": "completed", "length": "incomplete"}[same["choices"][0]["finish_reason"]]
    )


def test_an_answer_cut_at_its_length_is_incomplete(scripted: Callable[..., Any]) -> None:
    with scripted("abc ") as server:
        server.engine.free()
        answer, events = whole(server, max_output_tokens=2), stream(server, max_output_tokens=2)
    for response in (answer, events[-1]["response"]):
        assert response["status"] == response["output"][0]["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["completed_at"] is None
    assert events[-1]["type"] == "response.incomplete"


def test_an_answer_without_a_word_is_an_empty_message(scripted: Callable[..., Any]) -> None:
    with scripted("<|end|>") as server:
        server.engine.free()
        answer, events = whole(server), stream(server)
    assert answer["output"][0]["content"][0]["text"] == ""
    assert lasting(answer) == lasting(events[-1]["response"])
    assert "response.output_text.delta" not in [event["type"] for event in events]


PROMPTS: list[tuple[dict[str, Any], str]] = [
    ({"input": "hi"}, "<|user|>hi<|end|><|assistant|>"),
    ({"input": "hi", "instructions": "be"}, "<|system|>be<|end|><|user|>hi<|end|><|assistant|>"),
    (
        {
            "input": [
                {"role": "developer", "content": "be"},
                {"role": "system", "content": "brief"},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
                {"role": "assistant", "content": "b", "id": "msg_1", "status": "completed"},
                {
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "c"}, {"type": "input_text", "text": "d"}],
                },
            ]
        },
        "<|system|>be<|end|><|system|>brief<|end|><|user|>a<|end|><|assistant|>b<|end|>"
        "<|user|>c\nd<|end|><|assistant|>",
    ),
]


@pytest.mark.parametrize(("fields", "prompt"), PROMPTS, ids=range(len(PROMPTS)))
def test_items_are_read_as_a_chat(
    scripted: Callable[..., Any], tiny_tokenizer: Any, fields: dict[str, Any], prompt: str
) -> None:
    with scripted() as server:
        server.engine.free()
        whole(server, max_output_tokens=1, **fields)
        (request,) = server.engine.requests.values()
    assert tiny_tokenizer.decode(request.prompts["base"]) == prompt


def test_the_output_can_be_sent_back_as_it_is(scripted: Callable[..., Any], tiny_tokenizer: Any) -> None:
    with scripted("abc <|end|>") as server:
        server.engine.free()
        first = whole(server, include=LOGPROBS)
        items = [{"role": "user", "content": "hello"}, *first["output"], {"role": "user", "content": "on"}]
        whole(server, input=items)
        *_, request = server.engine.requests.values()
    assert tiny_tokenizer.decode(request.prompts["base"]) == (
        "<|user|>hello<|end|><|assistant|>abc <|end|><|user|>on<|end|><|assistant|>"
    )


ITEM = {"role": "user", "content": "x"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": 5}, "input"),
    ({"input": []}, "input"),
    ({"input": [5]}, "input[0]"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{**ITEM, "type": "reasoning"}]}, "input[0].type"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"input": [{**ITEM, "mood": "x"}]}, "input[0].mood"),
    ({"input": [ITEM, {**ITEM, "content": [{"type": "input_image"}]}]}, "input[1].content[0].type"),
    ({"input": [ITEM] * 4097}, "input"),
    ({"input": "x" * 100_000}, "input"),
    ({"max_output_tokens": 300}, "input"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"messages": [ITEM]}, "messages"),
    ({"instructions": 5}, "instructions"),
    ({"store": True}, "store"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True}, "background"),
    ({"truncation": "auto"}, "truncation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"reasoning": {"effort": "low"}}, "reasoning.effort"),
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"include": LOGPROBS, "top_logprobs": 21}, "top_logprobs"),
    ({"include": ["file_search_call.results"]}, "include[0]"),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": True}}, "stream_options.include_usage"),
    ({"metadata": {"x" * 65: "x"}}, "metadata."),
    ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
    ({"n": 2}, "n"),
    ({"return_token_ids": True}, "return_token_ids"),
    ({"max_tool_calls": 3}, "max_tool_calls"),
    ({"context_management": [{"type": "compaction"}]}, "context_management"),
    ({"temperature": 3}, "temperature"),
    ({"preferences": {"nope": 1}}, "preferences.nope"),
    ({"guidance": {"report": "tokens"}}, "guidance.report"),
    ({"stop_token_ids": [300]}, "stop_token_ids[0]"),
    ({"unknown": 1}, "unknown"),
]


@pytest.mark.parametrize(
    ("fields", "param"), REFUSED, ids=[f"{param}-{i}" for i, (_, param) in enumerate(REFUSED)]
)
def test_a_wrong_field_is_named(real: Any, fields: dict[str, Any], param: str) -> None:
    found = error(post(real, **fields))
    assert found["param"] == param or (param.endswith(".") and found["param"].startswith(param))
    assert found["type"] == "invalid_request_error"


@pytest.mark.parametrize("field", ["store", "previous_response_id"])
def test_what_needs_a_store_is_told_that_there_is_none(real: Any, field: str) -> None:
    value = True if field == "store" else "resp_1"
    assert "nothing is stored" in error(post(real, **{field: value}))["message"]


def test_an_item_of_another_kind_is_told_which_there_are(real: Any) -> None:
    message = error(post(real, input=[{"type": "web_search_call", "id": "x"}]))["message"]
    assert "'message'" in message


def test_neutral_and_harmless_values_are_accepted(real: Any) -> None:
    neutral: dict[str, Any] = {
        "store": False,
        "previous_response_id": None,
        "conversation": None,
        "background": False,
        "truncation": "disabled",
        "reasoning": {"effort": "none", "summary": None},
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "include": ["reasoning.encrypted_content"],
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"mode": "implicit"},
        "top_logprobs": 0,
        "stream_options": None,
        "n": 1,
    }
    answer = whole(real, max_output_tokens=2, **neutral)
    assert answer["parallel_tool_calls"] is False
    assert (answer["safety_identifier"], answer["prompt_cache_key"]) == ("s", "k")
    whole(real, max_output_tokens=2, **dict.fromkeys(neutral))
    stream(real, max_output_tokens=2, stream_options={"include_obfuscation": True})


def test_an_unknown_model_is_not_found(real: Any) -> None:
    assert error(post(real, model="tiny:cruel"), 404)["code"] == "model_not_found"


def test_nothing_can_be_read_deleted_or_cancelled_afterwards(real: Any) -> None:
    id = whole(real, max_output_tokens=1)["id"]
    with real.client() as client:
        at = f"/v1/responses/{id}"
        for response in (
            client.get(at),
            client.delete(at),
            client.post(f"{at}/cancel"),
            client.get(f"{at}/input_items"),
        ):
            assert "not stored" in error(response, 404)["message"]
        error(client.get("/v1/responses"), 405)
        error(client.patch(at, json={}), 405)
        error(client.get(f"/v1/chat/completions/{id}"), 404)


def test_a_response_that_fails_says_so_as_its_last_event(scripted: Callable[..., Any]) -> None:
    with scripted("abc ") as server, server.client() as client:
        with client.stream("POST", "/v1/responses", json=body(stream=True)) as response:
            lines = response.iter_lines()
            server.engine.allow(2)
            seen = [next(lines) for _ in range(12)]
            server.engine.kill()
            events = parse(iter([*seen, *lines]))
        assert error(client.post("/v1/responses", json=body()), 503)
    assert events[-1]["type"] == "response.failed"
    failed = checked(events[-1]["response"])
    EVENTS.validate_python(events[-1])
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "server_error"
    assert "secret" not in failed["error"]["message"]
    assert failed["output"][0]["status"] == "incomplete"
    assert failed["output"][0]["content"][0]["text"] == said(events)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_a_whole_response_that_fails_is_an_error(scripted: Callable[..., Any], until: Any) -> None:
    with scripted("abc ") as server:
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(post(server)))
        thread.start()
        until(lambda: server.engine.requests)
        server.engine.kill()
        thread.join(10)
    assert error(answers[0], 503)["code"] == "engine_dead"


def test_who_leaves_a_stream_ends_its_work(scripted: Callable[..., Any], until: Any) -> None:
    with scripted("abc ") as server, server.client() as client:
        with client.stream("POST", "/v1/responses", json=body(stream=True)) as response:
            next(response.iter_lines())
        until(lambda: server.engine.aborted)
        until(lambda: server.serving.dispatcher.admitted == 0)


def test_it_is_behind_the_keys(scripted: Callable[..., Any]) -> None:
    with scripted(keys=["secret"]) as server:
        error(post(server), 401)


def test_it_is_documented_with_examples(real: Any) -> None:
    with real.client() as client:
        document = client.get("/openapi.json").json()
        content = document["paths"]["/v1/responses"]["post"]["requestBody"]["content"]["application/json"]
        assert set(content["examples"]) == {"plain", "guided"}
        answer = document["paths"]["/v1/responses"]["post"]["responses"]["200"]["content"]
        assert set(answer) == {"application/json", "text/event-stream"}
        assert "ResponseChunk" in document["components"]["schemas"]
        for example in content["examples"].values():
            asked = {**example["value"], "model": "tiny", "max_output_tokens": 1}
            assert client.post("/v1/responses", json=asked).status_code == 200


@pytest.fixture(scope="module")
def client(real: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{real.url}/v1", api_key="-", max_retries=0)


GUIDED: dict[str, Any] = {
    "model": "tiny",
    "input": "how do I clean the oven?",
    "max_output_tokens": 20,
    "extra_body": {"preferences": {"helpful": 0.5, "harmless": 1.5}, "seed": 3, "ignore_eos": True},
}


def test_openais_client_creates_and_streams(client: openai.OpenAI) -> None:
    answer = client.responses.create(**GUIDED, include=LOGPROBS, top_logprobs=2)
    assert answer.output_text
    assert answer.usage and answer.usage.output_tokens == 20
    assert answer.guidance["preferences"] == {"helpful": 0.5, "harmless": 1.5}  # type: ignore[attr-defined]
    events = list(client.responses.create(**GUIDED, stream=True))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == answer.output_text
    assert events[-1].type == "response.incomplete"


def test_openais_stream_helper_collects_the_response(scripted: Callable[..., Any]) -> None:
    with scripted("abc <|end|>") as server:
        server.engine.free()
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)
        with client.responses.stream(model="tiny", input="hello") as events:
            snapshots = [event.snapshot for event in events if event.type == "response.output_text.delta"]
            final = events.get_final_response()
    assert snapshots[-1] == final.output_text == "abc "


def test_openais_asynchronous_client_streams(real: Any, client: openai.OpenAI) -> None:
    async def text() -> str:
        async with openai.AsyncOpenAI(base_url=f"{real.url}/v1", api_key="-", max_retries=0) as client:
            stream = await client.responses.create(**GUIDED, stream=True)
            return "".join(
                [event.delta async for event in stream if event.type == "response.output_text.delta"]
            )

    assert asyncio.run(text()) == client.responses.create(**GUIDED).output_text


def test_openais_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**{**GUIDED, "store": True})
    assert (refused.value.param, refused.value.code) == ("store", "not_offered")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")
    with pytest.raises(openai.NotFoundError):
        client.responses.create(**{**GUIDED, "model": "nobody"})
