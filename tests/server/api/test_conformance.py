"""Bodies and chunks are what OpenAI's own types say, over all features."""

import json
from typing import Any, get_type_hints

import pytest
from openai.types import Completion, CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as TextParams
from openai.types.responses.response_create_params import ResponseCreateParamsBase as ResponseParams
from openai.types.shared import ErrorObject
from pydantic import BaseModel

from server.api.body import parse
from server.api.schema import ChangeRequest, ChatCompletionRequest, CompletionRequest
from server.api.schema.admin import RewardRequest
from server.api.schema.responses import ResponseRequest

CHAT: list[dict[str, Any]] = [
    {},
    {"n": 3},
    {"logprobs": True, "top_logprobs": 3, "n": 2},
    {"stop": ["a", "e"], "logprobs": True},
    {"guidance": {"report": "tokens"}, "return_token_ids": True},
    {"guidance": {"report": "summary", "max_kl": 0.1}},
    {"logit_bias": {"0": 100}},
]
TEXT: list[dict[str, Any]] = [
    {},
    {"n": 2, "prompt": ["a", "b"]},
    {"logprobs": 2},
    {"echo": True},
    {"guidance": {"report": "tokens"}, "return_token_ids": True, "logprobs": 0},
]
USAGE = {"include_usage": True, "continuous_usage_stats": True}


def check(kind: type[BaseModel], body: dict[str, Any]) -> None:
    """Strictly: no string taken for a number, and every field OpenAI names at its place."""
    kind.model_validate_json(json.dumps(body), strict=True)


@pytest.mark.parametrize("fields", CHAT)
def test_chats_are_openais(real: Any, fields: dict[str, Any]) -> None:
    body = real.chat(seed=1, max_tokens=8, **fields).json()
    check(ChatCompletion, body)
    for choice in body["choices"]:
        assert {"index", "message", "logprobs", "finish_reason"} <= set(choice)
        assert set(choice["message"]) == {"role", "content", "refusal"}
    chunks = real.stream(seed=1, max_tokens=8, stream_options=USAGE, **fields)
    for chunk in chunks:
        check(ChatCompletionChunk, chunk)
        assert chunk["object"] == "chat.completion.chunk"
    assert all(chunk["choices"] for chunk in chunks[:-1])


@pytest.mark.parametrize("fields", TEXT)
def test_completions_are_openais(real: Any, fields: dict[str, Any]) -> None:
    fields = {"prompt": "the kettle", "max_tokens": 8, "seed": 1, **fields}
    check(Completion, real.complete(**fields).json())
    for chunk in real.stream_completion(**fields, stream_options=USAGE):
        # The published type has no null here, though OpenAI's own streams have it until the end.
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        check(Completion, chunk)


def test_usage_and_errors_are_openais(real: Any) -> None:
    check(CompletionUsage, real.chat(max_tokens=1).json()["usage"])
    for response in (real.chat(nope=1), real.chat(model="nope"), real.complete(""), real.complete("a", n=99)):
        check(ErrorObject, response.json()["error"])


@pytest.mark.parametrize(
    ("params", "model"),
    [
        (ChatParams, ChatCompletionRequest),
        (TextParams, CompletionRequest),
        (ResponseParams, ResponseRequest),
    ],
)
def test_every_field_of_openais_is_known_by_name(params: type, model: type[BaseModel]) -> None:
    assert set(get_type_hints(params)) <= set(model.model_fields)


def test_the_documents_examples_are_answered(real: Any) -> None:
    with real.client() as client:
        answered = 0
        for path, operations in client.get("/openapi.json").json()["paths"].items():
            for method, operation in operations.items():
                content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                assert ("examples" in content) == ("schema" in content), path
                for example in content.get("examples", {}).values():
                    if path.startswith("/v1/admin/"):  # there with keys only
                        parse(RewardRequest, json.dumps(example["value"]).encode())
                    elif method == "post":
                        body = {**example["value"], "model": "tiny"}
                        assert client.post(path, json=body).status_code == 200
                        answered += 1
                    else:
                        parse(ChangeRequest, json.dumps(example["value"]).encode())
        assert answered >= 9
