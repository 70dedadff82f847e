"""Log-probs of a chat's answer: OpenAI's shape, of the mix and not of what the draw made of it, finite in JSON."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from server.api.choice import Token
from server.api.logprobs import CompletionLogprobs, chat_logprobs
from server.engine import TokenLogprobs
from server.text import RawPrompt, TokenBytes


def content(response: Any, index: int = 0) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    listed: list[dict[str, Any]] = response.json()["choices"][index]["logprobs"]["content"]
    return listed


def test_every_token_has_its_text_bytes_and_alternatives(real: Any) -> None:
    response = real.chat(max_tokens=8, seed=1, ignore_eos=True, logprobs=True, top_logprobs=5)
    body = response.json()
    listed = content(response)
    assert len(listed) == body["usage"]["completion_tokens"]
    for entry in listed:
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"}
        assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]
        values = [one["logprob"] for one in entry["top_logprobs"]]
        assert len(values) == 5
        assert values == sorted(values, reverse=True)
        assert entry["logprob"] <= values[0] <= 0
        same = [one for one in entry["top_logprobs"] if one["bytes"] == entry["bytes"]]
        assert all(one["logprob"] == entry["logprob"] for one in same)


def test_the_bytes_of_the_tokens_are_the_answer(scripted: Callable[..., Any]) -> None:
    text = "é👍 the kettle"
    with scripted(text) as server:
        server.engine.free()
        response = server.chat(max_tokens=len(server.engine.script), logprobs=True)
        assert b"".join(bytes(entry["bytes"]) for entry in content(response)).decode() == text
        assert "\ufffd" in content(response)[0]["token"]


def test_alternatives_only_where_they_are_asked_for(real: Any) -> None:
    for fields in ({}, {"top_logprobs": None}, {"top_logprobs": 0}):
        listed = content(real.chat(max_tokens=3, seed=1, logprobs=True, **fields))
        assert all(entry["top_logprobs"] == [] for entry in listed)
    assert len(content(real.chat(max_tokens=1, logprobs=True, top_logprobs=20))[0]["top_logprobs"]) == 20
    for fields in ({}, {"logprobs": False}, {"logprobs": None}):
        assert real.chat(max_tokens=3, **fields).json()["choices"][0]["logprobs"] is None


def test_they_are_of_the_mix_before_bias_penalties_and_temperature(real: Any, alike: Any) -> None:
    fields: dict[str, Any] = {"max_tokens": 1, "seed": 1, "logprobs": True, "top_logprobs": 20}
    plain = content(real.chat(**fields))[0]["top_logprobs"]
    for changes in (
        {"temperature": 0.3},
        {"logit_bias": {"70": 50}},
        {"repetition_penalty": 2.0},
        {"top_k": 1},
    ):
        assert alike(content(real.chat(**fields, **changes))[0]["top_logprobs"], plain), changes
    assert not alike(content(real.chat(**fields, preferences={}))[0]["top_logprobs"], plain)


def test_the_token_that_ends_the_answer_is_listed_as_it_is_counted(scripted: Callable[..., Any]) -> None:
    with scripted("hi<|end|>") as server:
        server.engine.free()
        response = server.chat(logprobs=True)
        assert response.json()["choices"][0]["message"]["content"] == "hi"
        assert [entry["token"] for entry in content(response)][-1] == "<|end|>"
        assert len(content(response)) == response.json()["usage"]["completion_tokens"]


def test_tokens_cut_off_by_a_stop_string_are_listed_streamed_and_not(scripted: Callable[..., Any]) -> None:
    with scripted("hello world ") as server:
        server.engine.free()
        fields: dict[str, Any] = {"stop": "lo wor", "max_tokens": 50, "logprobs": True}
        listed = content(server.chat(**fields))
        chunks = server.stream(**fields, stream_options={"include_usage": True})
        parts = [part["logprobs"] for chunk in chunks for part in chunk["choices"] if part["logprobs"]]
        assert [entry for part in parts for entry in part["content"]] == listed
        assert len(listed) == chunks[-1]["usage"]["completion_tokens"]


def test_a_token_held_back_is_listed_in_the_chunk_with_its_text(scripted: Callable[..., Any]) -> None:
    with scripted("👍xyzQ") as server:
        server.engine.free()
        length = len(server.engine.script)
        chunks = server.stream(stop="xyzz", max_tokens=length, logprobs=True)
        seen = [
            (
                part["delta"]["content"],
                b"".join(bytes(entry["bytes"]) for entry in part["logprobs"]["content"]),
            )
            for chunk in chunks
            for part in chunk["choices"]
            if part["delta"].get("content")
        ]
        assert seen == [("👍", "👍".encode()), ("xyzQ", b"xyzQ")]


def test_what_is_impossible_is_a_number_json_can_hold(tiny_tokenizer: Any) -> None:
    token_bytes = TokenBytes(tiny_tokenizer)
    never = TokenLogprobs(-math.inf, ((70, 0.0), (71, -math.inf)))
    (entry,) = chat_logprobs([Token(72, 0, never, None)], token_bytes).content
    assert entry.logprob == -9999.0
    assert [one.logprob for one in entry.top_logprobs] == [0.0, -9999.0]
    collected = CompletionLogprobs(token_bytes)
    collected.answer([Token(72, 0, never, None)])
    assert collected.all().token_logprobs == [-9999.0]


def test_tokens_with_one_text_keep_the_likelier(tiny_tokenizer: Any) -> None:
    token_bytes = TokenBytes(tiny_tokenizer)
    a, b, c = [token for token in range(5, 300) if token_bytes.text(token) == "\ufffd"][:3]
    collected = CompletionLogprobs(token_bytes)
    collected.prompt(
        RawPrompt((70, c), "b\ufffd", (0, 1)), (None, TokenLogprobs(-3.0, ((a, -1.0), (b, -2.0))))
    )
    collected.answer([Token(a, 0, TokenLogprobs(-1.0, ((a, -1.0), (b, -2.0))), None)])
    assert collected.all().top_logprobs == [None, {"\ufffd": -1.0}, {"\ufffd": -1.0}]
    assert collected.all().token_logprobs == [None, -3.0, -1.0]


@pytest.mark.parametrize("top", [20, 21])
def test_more_than_twenty_is_refused_and_the_server_goes_on(real: Any, top: int) -> None:
    assert real.chat(max_tokens=1, logprobs=True, top_logprobs=top).status_code == (200 if top == 20 else 400)
    assert real.chat(max_tokens=1).status_code == 200
