"""Bodies and chunks are what OpenAI's own types say, over all features."""

import json
from typing import Any

import pytest
from openai.types import Completion, CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.shared import ErrorObject
from pydantic import BaseModel

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


def test_the_documents_examples_are_answered(real: Any) -> None:
    with real.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
        for path in ("/v1/chat/completions", "/v1/completions"):
            content = paths[path]["post"]["requestBody"]["content"]["application/json"]
            assert set(content["examples"]) == {"plain", "guided"}
            for example in content["examples"].values():
                body = {**example["value"], "model": "tiny"}
                assert client.post(path, json=body).status_code == 200
