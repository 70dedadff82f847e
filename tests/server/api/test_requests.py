"""Whatever is wrong with a body is a 400 that names the field, and nobody else notices."""

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from server.api.body import MAX_KEYS, MAX_PARTS, parse
from server.api.schema import ChangeRequest, ChatCompletionRequest, CompletionRequest
from server.api.schema.admin import RewardRequest
from server.api.schema.responses import ResponseRequest
from server.api.schema.tokenize import DetokenizeRequest, TokenizeChat, TokenizeText
from server.app import REQUEST_BODIES
from server.errors import InvalidRequest

USER = [{"role": "user", "content": "hello"}]

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"unknown": 1}, "unknown"),
    ({"x" * 5000: 1}, "xxx"),
    ({"model": None}, "model"),
    ({"model": 5}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": {}}, "messages"),
    ({"messages": ["hello"]}, "messages[0]"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages[0].mood"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0].type",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
        "messages[0].tool_calls[0].id",
    ),
    ({"preferences": {"nope": 1}}, "preferences.nope"),
    ({"preferences": {"helpful": "1"}}, "preferences.helpful"),
    ({"preferences": {"helpful": True}}, "preferences.helpful"),
    ({"preferences": {"helpful": None}}, "preferences.helpful"),
    ({"preferences": {"helpful": 101}}, "preferences.helpful"),
    ({"preferences": {"helpful": 10**400}}, "preferences.helpful"),
    ({"preferences": [1]}, "preferences"),
    ({"preferences": {"helpful": 1}, "guidance": {"beta": 0.001}}, "preferences.helpful"),
    ({"guidance": {"beta": 0}}, "guidance.beta"),
    ({"guidance": {"beta": -1}}, "guidance.beta"),
    ({"guidance": {"method": "magic"}}, "guidance.method"),
    ({"guidance": {"method": 3}}, "guidance.method"),
    ({"guidance": {"report": "all"}}, "guidance.report"),
    ({"guidance": {"report": True}}, "guidance.report"),
    ({"guidance": {"normalize": "yes"}}, "guidance.normalize"),
    ({"guidance": {"max_kl": -1}}, "guidance.max_kl"),
    ({"guidance": {"max_kl": "1"}}, "guidance.max_kl"),
    ({"guidance": {"max_lk": 1}}, "guidance.max_lk"),
    ({"guidance": {"normalize": True}, "preferences": {"helpful": -2}}, "guidance.normalize"),
    ({"guidance": 1}, "guidance"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.01}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": "x" * 20_000}, "stop"),
    ({"stop": 5}, "stop"),
    ({"stop_token_ids": [300]}, "stop_token_ids[0]"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"stop_token_ids": [10**40]}, "stop_token_ids[0]"),
    ({"stop_token_ids": list(range(65))}, "stop_token_ids"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"nope": True}}, "stream_options.nope"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"n": 129}, "n"),
    ({"n": 10**9}, "n"),
    ({"n": 10**30}, "n"),
    ({"n": True}, "n"),
    ({"n": 2.0}, "n"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"top_logprobs": 0, "logprobs": False}, "top_logprobs"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
    ({"top_logprobs": -1, "logprobs": True}, "top_logprobs"),
    ({"logit_bias": {"5": 100.5}}, "logit_bias.5"),
    ({"logit_bias": {"5": "1"}}, "logit_bias.5"),
    ({"logit_bias": {"5": None}}, "logit_bias.5"),
    ({"logit_bias": {"five": 1}}, "logit_bias.five"),
    ({"logit_bias": {"5.0": 1}}, "logit_bias.5.0"),
    ({"logit_bias": {"": 1}}, "logit_bias."),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
    ({"logit_bias": {"05": 1}}, "logit_bias.05"),
    ({"logit_bias": {"٣": 1}}, "logit_bias.٣"),
    ({"logit_bias": {"300": 1}}, "logit_bias.300"),
    ({"logit_bias": {str(10**30): 1}}, f"logit_bias.{10**30}"),
    ({"logit_bias": {str(key): 1 for key in range(1025)}}, "logit_bias"),
    ({"logit_bias": [5]}, "logit_bias"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"repetition_penalty": -1}, "repetition_penalty"),
    ({"repetition_penalty": 1e9}, "repetition_penalty"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ({"min_tokens": 1000}, "min_tokens"),
    ({"include_stop_str_in_output": "yes"}, "include_stop_str_in_output"),
    ({"return_token_ids": 1}, "return_token_ids"),
    ({"skip_special_tokens": False}, "skip_special_tokens"),
    ({"prompt_logprobs": 1}, "prompt_logprobs"),
    ({"response_format": {"type": "grammar"}}, "response_format.type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{}]}, "functions"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"audio": {}}, "audio"),
    ({"prediction": {}}, "prediction"),
    ({"reasoning_effort": "low"}, "reasoning_effort"),
    ({"verbosity": "low"}, "verbosity"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"chat_template": "{{ x }}"}, "chat_template"),
    ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
    ({"continue_final_message": True}, "continue_final_message"),
    (
        {
            "continue_final_message": True,
            "add_generation_prompt": True,
            "messages": [{"role": "assistant", "content": "x"}],
        },
        "continue_final_message",
    ),
    ({"add_generation_prompt": "no"}, "add_generation_prompt"),
    ({"metadata": {"a": 1}}, "metadata.a"),
]


def assert_shape(error: dict[str, Any]) -> None:
    assert set(error) == {"error"}
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert isinstance(error["error"]["message"], str)
    assert error["error"]["code"] is None or isinstance(error["error"]["code"], str)


@pytest.mark.parametrize(
    ("fields", "param"), REFUSED, ids=[f"{param[:40]}-{i}" for i, (_, param) in enumerate(REFUSED)]
)
def test_a_wrong_field_is_named(real: Any, fields: dict[str, Any], param: str) -> None:
    response = real.chat(**fields)
    assert response.status_code == 400, response.text
    assert_shape(response.json())
    error = response.json()["error"]
    assert error["param"] == param if len(param) > 3 or param == "n" else error["param"].startswith(param)
    assert error["type"] == "invalid_request_error"
    assert len(response.content) < 1500


def test_content_that_is_missing_is_asked_for_as_text(real: Any) -> None:
    error = real.chat(messages=[{"role": "user", "content": None}]).json()["error"]
    assert "string" in error["message"]


def test_the_known_preferences_are_listed(real: Any) -> None:
    message = real.chat(preferences={"kind": 1}).json()["error"]["message"]
    assert "kind" in message
    assert "helpful, harmless" in message


NULLABLE: list[tuple[str, type[BaseModel], dict[str, Any]]] = [
    ("/v1/chat/completions", ChatCompletionRequest, {"messages": USER, "max_tokens": 1}),
    ("/v1/completions", CompletionRequest, {"prompt": "a", "max_tokens": 1}),
    ("/v1/responses", ResponseRequest, {"input": "a", "max_output_tokens": 1}),
    ("/tokenize", TokenizeText, {"prompt": "a"}),
    ("/tokenize", TokenizeChat, {"messages": USER}),
    ("/detokenize", DetokenizeRequest, {"tokens": [5]}),
]


@pytest.mark.parametrize(("path", "model", "needed"), NULLABLE, ids=range(len(NULLABLE)))
def test_any_optional_field_may_be_null(
    real: Any, path: str, model: type[BaseModel], needed: dict[str, Any]
) -> None:
    optional = [name for name, field in model.model_fields.items() if not field.is_required()]
    body = {"model": "tiny", **dict.fromkeys(optional), **needed}
    with real.client() as client:
        response = client.post(path, json=body)
    assert response.status_code == 200, response.text


def test_every_optional_field_at_its_neutral_value_is_accepted(real: Any) -> None:
    response = real.chat(
        max_completion_tokens=2,
        max_tokens=2,
        n=1,
        temperature=1,
        top_p=1,
        top_k=-1,
        min_p=0,
        logprobs=False,
        logit_bias={},
        presence_penalty=0,
        frequency_penalty=0.0,
        repetition_penalty=1.0,
        min_tokens=0,
        response_format={"type": "text"},
        tools=[],
        tool_choice="none",
        stop=[],
        stop_token_ids=[],
        stream=False,
        store=True,
        metadata={"a": "b"},
        user="u",
        safety_identifier="s",
        service_tier="auto",
        prompt_cache_key="k",
        prompt_cache_options={"mode": "x"},
        parallel_tool_calls=True,
        guidance={"method": "genarm", "report": "none", "beta": None, "normalize": None},
        messages=[
            {"role": "developer", "content": "be kind"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                "name": "x",
            },
            {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "annotations": []},
            {"role": "tool", "content": "d", "tool_call_id": "1"},
        ],
    )
    assert response.status_code == 200, response.text


RAW = {
    "not json": b"hello",
    "empty": b"",
    "torn": b'{"model": "tiny", "messages": [',
    "array": b"[]",
    "string": b'"x"',
    "number": b"5",
    "null": b"null",
    "nan": b'{"model":"tiny","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    "infinity": b'{"model":"tiny","messages":[{"role":"user","content":"x"}],"preferences":{"helpful":-Infinity}}',
    "deep": b'{"model":' * 100_000,
    "deep array": b'{"messages":' + b"[" * 100_000,
    "huge integer": b'{"model":"tiny","messages":[{"role":"user","content":"x"}],"seed":'
    + b"9" * 10_000
    + b"}",
    "huge float": b'{"model":"tiny","messages":[{"role":"user","content":"x"}],"temperature":1e999}',
    "lone surrogate": b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}',
    "lone surrogate key": b'{"model":"tiny","\\ud800":1,"messages":[{"role":"user","content":"x"}]}',
    "not utf-8": b'{"model":"tiny","messages":[{"role":"user","content":"\xff"}]}',
    "nul": b"\x00",
}


@pytest.mark.parametrize("name", RAW)
def test_bytes_that_are_no_request_are_400(real: Any, name: str) -> None:
    with real.client() as client:
        response = client.post(
            "/v1/chat/completions", content=RAW[name], headers={"content-type": "application/json"}
        )
        assert response.status_code == 400, response.text
        assert_shape(response.json())
        assert len(response.content) < 1000
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
def test_another_content_type_is_415(real: Any, kind: str) -> None:
    with real.client() as client:
        response = client.post(
            "/v1/chat/completions", content=json.dumps(real.body()), headers={"content-type": kind}
        )
    assert response.status_code == 415
    assert_shape(response.json())


def test_a_charset_is_no_other_content_type(real: Any) -> None:
    with real.client() as client:
        response = client.post(
            "/v1/chat/completions",
            content=json.dumps(real.body(max_tokens=1)),
            headers={"content-type": "application/json; charset=utf-8"},
        )
    assert response.status_code == 200


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP, identity", "nonsense"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_a_compressed_body_is_415_and_told_why(real: Any, path: str, coding: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": coding}
    with real.client() as client:
        response = client.post(path, content=gzip.compress(b"{}"), headers=headers)
    assert response.status_code == 415
    assert_shape(response.json())
    assert "Content-Encoding" in response.json()["error"]["message"]


def test_identity_is_no_coding(real: Any) -> None:
    body = json.dumps(real.body(max_tokens=1))
    headers = {"content-type": "application/json", "content-encoding": "Identity"}
    with real.client() as client:
        assert client.post("/v1/chat/completions", content=body, headers=headers).status_code == 200


def test_of_two_fields_with_one_name_the_last_counts(real: Any) -> None:
    body = json.dumps(real.body(max_tokens=5, ignore_eos=True)).replace(
        '"max_tokens": 5', '"max_tokens": 5, "max_tokens": 2'
    )
    with real.client() as client:
        response = client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
    assert response.json()["usage"]["completion_tokens"] == 2


MANY = ",".join(f'"k{i}": 1' for i in range(MAX_KEYS + 1))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (MANY, None),
        (f'"logit_bias": {{{MANY}}}', "logit_bias"),
        (f'"metadata": {{"a": {{{MANY}}}}}', "metadata"),
        (f'"messages": [{{{MANY}}}]', "messages"),
        (f'"tools": [[{", ".join(["[]"] * MAX_PARTS)}]]', "tools"),
        (f'"prompt_cache_options": {{"a": [{", ".join(["{}"] * MAX_PARTS)}]}}', "prompt_cache_options"),
    ],
    ids=["fields", "keys", "inner keys", "keys in a list", "lists", "objects"],
)
def test_a_body_of_too_many_parts_is_refused_before_each_is_complained_about(
    fields: str, param: str | None
) -> None:
    with pytest.raises(InvalidRequest, match="more than") as refused:
        parse(ChatCompletionRequest, f'{{"model": "tiny", {fields}}}'.encode())
    assert refused.value.param == param


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        (
            ChatCompletionRequest,
            '"messages": [{"role": "user", "content": ""}], "response_format": '
            '{"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}',
            "response_format.json_schema.schema",
        ),
        (
            ChatCompletionRequest,
            '"messages": [{"role": "user", "content": ""}], '
            '"tools": [{"type": "function", "function": {"name": "a", "parameters": SCHEMA}}]',
            "tools[0].function.parameters",
        ),
        (
            ResponseRequest,
            '"input": "", "tools": [{"type": "function", "name": "a", "parameters": SCHEMA}]',
            "tools[0].parameters",
        ),
        (
            ResponseRequest,
            '"input": "", "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}',
            "text.format.schema",
        ),
    ],
)
def test_numbers_in_schemas_are_finite(model: type[BaseModel], fields: str, param: str, number: str) -> None:
    schema = f'{{"items": [{{"maximum": {number}}}]}}'
    with pytest.raises(InvalidRequest) as refused:
        parse(model, f'{{"model": "tiny", {fields.replace("SCHEMA", schema)}}}'.encode())
    assert refused.value.param == param
    assert "finite" in refused.value.message


def test_a_large_body_that_is_fine_is_fine() -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x" * 100_000}]}
    assert parse(ChatCompletionRequest, json.dumps(body).encode()).messages[0].text == "x" * 100_000
    tokens = {"model": "tiny", "prompt": [[5] * 100] * 2000}
    assert len(parse(CompletionRequest, json.dumps(tokens).encode()).prompts) == 2000


def lists(schema: Any) -> Iterator[dict[str, Any]]:
    """Every list in a schema of pydantic's core; a tuple of a fixed length is none, it complains of so many at most."""
    if isinstance(schema, dict):
        variadic = schema.get("type") == "tuple" and "variadic_item_index" in schema
        if variadic or schema.get("type") in ("list", "set"):
            yield schema
        for part in schema.values():
            yield from lists(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from lists(part)


@pytest.mark.parametrize("model", REQUEST_BODIES)
def test_of_a_list_only_the_first_wrong_entry_is_complained_about(model: type[BaseModel]) -> None:
    """A million complaints, as a body of 4 MiB can cause, take many seconds in which nobody is served."""
    found = list(lists(model.__pydantic_core_schema__))
    assert found or model in (ChangeRequest, RewardRequest)
    assert [one for one in found if not one.get("fail_fast")] == []


@pytest.mark.parametrize("model", ["other", "tiny:nope", "tiny:", "TINY", "x" * 10_000])
def test_an_unknown_model_is_404(real: Any, model: str) -> None:
    response = real.chat(model=model)
    assert response.status_code == 404
    assert_shape(response.json())
    assert response.json()["error"]["code"] == "model_not_found"
    assert response.json()["error"]["param"] == "model"
    assert len(response.content) < 600


def test_context_overflow_names_the_three_lengths(real: Any) -> None:
    response = real.chat(max_tokens=1000)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["code"] == "context_length_exceeded"
    prompt = real.chat(max_tokens=1).json()["usage"]["prompt_tokens"]
    assert "256" in error["message"]
    assert "1000" in error["message"]
    assert prompt > 0


def test_the_tightest_member_counts_even_at_weight_0(real: Any) -> None:
    # "harmless" reads a longer prompt than the base: what it cannot hold may not be promised.
    base_prompt = real.chat(max_tokens=1).json()["usage"]["prompt_tokens"]
    response = real.chat(max_tokens=256 - base_prompt, preferences={})
    assert response.status_code == 400
    assert "the limit of harmless" in response.json()["error"]["message"]


@pytest.mark.parametrize("words", [300, 3_000_000 // 6])
def test_a_prompt_that_does_not_fit_is_400(real: Any, words: int) -> None:
    response = real.chat(messages=[{"role": "user", "content": "hello " * words}])
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_without_max_tokens_the_answer_may_fill_the_context(real: Any) -> None:
    usage = real.chat(ignore_eos=True, seed=5).json()["usage"]
    with real.client() as client:
        assert client.get("/health").status_code == 200
    # 256 positions; the longest prompt is that of "harmless".
    assert usage["prompt_tokens"] < 256 - usage["completion_tokens"] < 256


def test_a_body_over_the_limit_is_413(scripted: Callable[..., Any]) -> None:
    with scripted(http={"max_body_bytes": 1000}) as server, server.client() as client:
        body = json.dumps(server.body(user="x" * 2000)).encode()
        headers = {"content-type": "application/json"}
        declared = client.post("/v1/chat/completions", content=body, headers=headers)
        chunked = client.post("/v1/chat/completions", content=iter([body[:600], body[600:]]), headers=headers)
        for response in (declared, chunked):
            assert response.status_code == 413
            assert_shape(response.json())
        server.engine.free()
        assert server.chat(max_tokens=1).status_code == 200


def test_wrong_verbs_and_urls_have_the_shape(real: Any) -> None:
    with real.client() as client:
        for method, path, status in [
            ("GET", "/v1/chat/completions", 405),
            ("DELETE", "/v1/models", 405),
            ("POST", "/health", 405),
            ("GET", "/nope", 404),
            ("GET", "/v1/models/nope", 404),
            ("GET", "/v1/models/", 404),
            ("GET", "/v1/chat/completions/", 404),
        ]:
            response = client.request(method, path)
            assert response.status_code == status, path
            assert_shape(response.json())
            if status == 405:
                assert response.headers["allow"]


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/ready",
        "/v1/models",
        "/v1/models/tiny:kind",
        "/v1/preferences",
        "/tokenizer_info",
    ],
)
def test_head_is_get_without_a_body(real: Any, path: str) -> None:
    with real.client() as client:
        got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    assert head.headers["content-length"] == got.headers["content-length"]
    assert head.headers["content-type"] == got.headers["content-type"]


def test_metrics_are_text_by_head_and_in_the_document(real: Any) -> None:
    with real.client() as client:
        assert client.head("/metrics").headers["content-type"].startswith("text/plain")
        document = client.get("/openapi.json").json()
    assert set(document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}


def test_the_request_id_is_echoed_when_it_is_sane(real: Any) -> None:
    with real.client() as client:
        assert client.get("/health", headers={"x-request-id": "my-id.1"}).headers["x-request-id"] == "my-id.1"
        for insane in ("", "a b", "x" * 200, "<script>", "é".encode()):
            made = client.get("/health", headers=[("x-request-id", insane)]).headers["x-request-id"]
            assert made.startswith("req_")
        assert client.get("/nope").headers["x-request-id"] != client.get("/nope").headers["x-request-id"]
        assert client.post("/v1/chat/completions", json={}).headers["x-request-id"]
