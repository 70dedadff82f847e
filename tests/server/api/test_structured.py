"""Response formats over a socket: tiny random models under guidance still answer with JSON of the schema."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from server.config import read_deployment
from server.runtime import load_runtime

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["kettle", "oven"]},
        "hot": {"type": "boolean"},
        "note": {"type": "string", "maxLength": 6},
        "parts": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 2},
    },
    "required": ["kind", "hot", "note", "parts"],
    "additionalProperties": False,
}
SIDE = {"preferences": {"helpful": 1.5, "harmless": -0.5}, "temperature": 1.3}


def a_format(schema: Any = SCHEMA, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, **fields}}


def is_valid(text: str) -> bool:
    return Draft202012Validator(SCHEMA).is_valid(json.loads(text))


@pytest.fixture(scope="module")
def forms(
    make_checkpoint: Callable[..., Path], serve: Callable[..., contextlib.AbstractContextManager[Any]]
) -> Iterator[Any]:
    """A server whose models read 1024 tokens."""
    room: dict[str, Any] = {"max_position_embeddings": 1024}
    declared = {
        "model": "tiny",
        "base": {"model": str(make_checkpoint("llama", "forms-base", seed=1, **room))},
        "rewards": [
            {"name": "helpful", "model": str(make_checkpoint("llama", "forms-helpful", seed=2, **room))},
            {"name": "harmless", "model": str(make_checkpoint("qwen3", "forms-harmless", seed=3, **room))},
        ],
    }
    with serve(read_deployment(declared, "test"), load_runtime) as server:
        yield server


@pytest.mark.parametrize("seed", range(8))
def test_an_answer_is_json_of_its_schema(forms: Any, seed: int) -> None:
    answer = forms.chat(response_format=a_format(strict=True), seed=seed, max_tokens=300, **SIDE).json()
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert is_valid(choice["message"]["content"])


def test_json_object_is_an_object_or_cut_off(forms: Any) -> None:
    for seed in range(6):
        answer = forms.chat(response_format={"type": "json_object"}, seed=seed, max_tokens=150, **SIDE).json()
        (choice,) = answer["choices"]
        text = choice["message"]["content"]
        assert text.startswith("{")
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(text), dict)
        else:
            assert choice["finish_reason"] == "length"


def test_text_is_any_text(forms: Any) -> None:
    plain = forms.chat(seed=3, max_tokens=20, temperature=1.0).json()
    formatted = forms.chat(seed=3, max_tokens=20, temperature=1.0, response_format={"type": "text"}).json()
    assert plain["choices"] == formatted["choices"]


def test_streamed_is_whole_for_several_choices_with_log_probs(forms: Any) -> None:
    asked = {"response_format": a_format(), "seed": 5, "n": 3, "logprobs": True, "top_logprobs": 2, **SIDE}
    whole = forms.chat(max_tokens=300, **asked).json()
    text, logprobs, reasons = [""] * 3, [[], [], []], [None] * 3  # type: ignore[var-annotated]
    for chunk in forms.stream(max_tokens=300, **asked):
        for choice in chunk["choices"]:
            index = choice["index"]
            text[index] += choice["delta"].get("content") or ""
            logprobs[index] += (choice["logprobs"] or {"content": []})["content"]
            reasons[index] = choice["finish_reason"] or reasons[index]
    assert text == [choice["message"]["content"] for choice in whole["choices"]]
    assert logprobs == [choice["logprobs"]["content"] for choice in whole["choices"]]
    assert reasons == ["stop"] * 3
    assert len(set(text)) == 3
    assert all(is_valid(one) for one in text)


def test_log_probs_are_those_of_the_mix_without_the_mask(forms: Any) -> None:
    asked = {"logprobs": True, "top_logprobs": 3, "max_tokens": 1, "temperature": 0, "seed": 1}
    (free,) = forms.chat(**asked).json()["choices"][0]["logprobs"]["content"]
    (masked,) = forms.chat(response_format=a_format(), **asked).json()["choices"][0]["logprobs"]["content"]
    assert masked["token"] == "{"
    assert masked["top_logprobs"] == free["top_logprobs"]


def test_a_stop_string_still_ends_the_answer(forms: Any) -> None:
    answer = forms.chat(response_format=a_format(), stop='"hot"', seed=1, max_tokens=300).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["message"]["content"].endswith((",", ", "))


def test_an_answer_ends_with_its_json_even_without_end_tokens(forms: Any) -> None:
    for more in ({"ignore_eos": True}, {"min_tokens": 250}):
        answer = forms.chat(response_format=a_format(), seed=2, max_tokens=300, **more).json()
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert is_valid(answer["choices"][0]["message"]["content"])


def test_without_end_tokens_a_number_goes_on(forms: Any) -> None:
    asked = {
        "response_format": a_format({"type": "integer"}),
        "max_tokens": 30,
        "ignore_eos": True,
        "seed": 4,
    }
    (choice,) = forms.chat(**asked).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].strip("-").isdigit()


def test_penalties_and_bias_do_not_break_the_form(forms: Any) -> None:
    asked = {"frequency_penalty": 2.0, "presence_penalty": -2.0, "logit_bias": {"0": 100, "10": 100}}
    answer = forms.chat(response_format=a_format(), seed=6, max_tokens=300, **asked).json()
    assert is_valid(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    ("format", "param"),
    [
        ({"type": "xml"}, "response_format.type"),
        ({}, "response_format.type"),
        ("json", "response_format"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_object", "json_schema": {"name": "a", "schema": {}}}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, "response_format.json_schema.name"),
        (
            {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
            "response_format.json_schema.name",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a"}},
            "response_format.json_schema.schema",
        ),
        (a_format([]), "response_format.json_schema.schema"),
        (a_format({"not": {}}), "response_format.json_schema.schema"),
        (a_format({"type": "string", "pattern": "("}), "response_format.json_schema.schema"),
        (a_format({"$ref": "http://localhost/x"}), "response_format.json_schema.schema"),
        (a_format({"description": "x" * 70_000}), "response_format.json_schema.schema"),
        (a_format({}, extra=1), "response_format.json_schema.extra"),
    ],
)
def test_a_form_that_cannot_be_is_refused_by_name(forms: Any, format: Any, param: str) -> None:
    response = forms.chat(response_format=format)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 400


@pytest.mark.parametrize(
    "schema",
    [
        '{"items":' * 100 + "{}" + "}" * 100,
        '{"enum":[' + ",".join(['"abcdefgh"'] * 100_000) + "]}",
        '{"anyOf":[' + ",".join(["{}"] * 150_000) + "]}",
    ],
    ids=["100 deep", "1 MB of text", "many objects"],
)
def test_a_schema_over_a_bound_is_refused_at_once(forms: Any, schema: str) -> None:
    body = forms.body(response_format=a_format({"here": 0}))
    begun = time.monotonic()
    with forms.client() as client:
        response = client.post(
            "/v1/chat/completions",
            content=json.dumps(body).replace('{"here": 0}', schema),
            headers={"content-type": "application/json"},
        )
    assert time.monotonic() - begun < 10
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "response_format.json_schema.schema"


def test_the_openai_client_parses_into_a_model(forms: Any) -> None:
    class Thing(BaseModel):
        kind: str
        count: int

    # Pydantic's own schema has no bounds: the answer may be cut off, which the client tells by an error of its own.
    parsed = 0
    with openai.OpenAI(base_url=f"{forms.url}/v1", api_key="none", max_retries=0) as client:
        for seed in range(8):
            messages: list[Any] = [{"role": "user", "content": "hi"}]
            asked: Any = {"model": "tiny", "max_tokens": 400, "seed": seed, "temperature": 1.5}
            with contextlib.suppress(openai.LengthFinishReasonError):
                answer = client.chat.completions.parse(messages=messages, response_format=Thing, **asked)
                assert isinstance(answer.choices[0].message.parsed, Thing)
                # The client's own serializer warns about what it parsed; it is sent as the client would.
                said: Any = answer.choices[0].message.model_dump(mode="json", warnings=False)
                messages += [said, *messages]
                client.chat.completions.create(messages=messages, **asked | {"max_tokens": 1})
                parsed += 1
    assert parsed
