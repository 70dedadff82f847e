"""What reaches the engine of a request: its method's members with their prompts, and nothing of other roles."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

ROLES: dict[str, Any] = {
    "base": {"negative_prompt": True},
    "policies": [
        {"name": "safe", "model": "a"},
        {"name": "kind", "model": "b", "reference": "c", "description": "friendly"},
    ],
    "scorers": [{"name": "whole", "model": "d", "trained_on": "responses"}],
    "conditioned": {"name": "parm", "model": "e", "objectives": ["brief", "clear"]},
}
REWARDS = {"helpful", "harmless"}


@pytest.fixture(scope="module")
def every(scripted: Callable[..., Any]) -> Iterator[Any]:
    """A server with every role."""
    with scripted(**ROLES) as server:
        server.engine.free()
        yield server


def asked(server: Any, **fields: Any) -> Any:
    """What the engine was asked."""
    response = server.chat(max_tokens=2, **fields)
    assert response.status_code == 200, response.text
    return list(server.engine.requests.values())[-1]


@pytest.mark.parametrize(
    ("guidance", "members"),
    [
        ({}, {"base", *REWARDS}),
        ({"method": "dera", "policy": "safe"}, {"base", "safe", *REWARDS}),
        ({"method": "dera", "policy": "kind", "lambda": 0.5}, {"base", "kind", "kind.reference", *REWARDS}),
        ({"method": "mod"}, {"base", "safe", "kind", *REWARDS}),
        ({"method": "mod", "divergence": "forward_kl"}, {"base", "safe", "kind"}),
        ({"method": "cfg", "negative_prompt": "x"}, {"base", "base.negative", *REWARDS}),
    ],
)
def test_only_members_that_the_method_may_weight_read_the_prompt(
    every: Any, guidance: dict[str, Any], members: set[str]
) -> None:
    request = asked(every, guidance=guidance)
    assert set(request.prompts) == members
    assert next(iter(request.prompts)) == "base"
    assert set(request.mix) <= members


@pytest.mark.parametrize(
    ("messages", "read"),
    [
        ([{"role": "user", "content": "hi"}], "<|system|>rude<|end|><|user|>hi<|end|><|assistant|>"),
        (
            [{"role": "developer", "content": "kind"}, {"role": "user", "content": "hi"}],
            "<|system|>rude<|end|><|user|>hi<|end|><|assistant|>",
        ),
    ],
)
def test_a_negative_prompt_takes_the_system_messages_place(
    every: Any, messages: list[dict[str, str]], read: str
) -> None:
    request = asked(every, messages=messages, guidance={"method": "cfg", "negative_prompt": "rude"})
    codec = every.serving.runtime.tokenizer.codec
    assert codec.decode(request.prompts["base.negative"]) == read
    assert "rude" not in codec.decode(request.prompts["base"])


def test_negative_messages_take_the_chats_place(every: Any) -> None:
    chat = [{"role": "developer", "content": "rude"}, {"role": "user", "content": "no"}]
    request = asked(every, guidance={"method": "cfg", "negative_messages": chat})
    read = every.serving.runtime.tokenizer.codec.decode(request.prompts["base.negative"])
    assert read == "<|system|>rude<|end|><|user|>no<|end|><|assistant|>"


def test_an_answer_that_goes_on_goes_on_in_the_negative_chat_too(every: Any) -> None:
    fields = {
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well, "}],
        "continue_final_message": True,
        "max_tokens": 1,
    }
    chat = [{"role": "user", "content": "hi"}]
    refused = every.chat(guidance={"method": "cfg", "negative_messages": chat}, **fields).json()["error"]
    assert refused["param"] == "guidance.negative_messages"
    chat = [*chat, {"role": "assistant", "content": "Well, "}]
    assert every.chat(guidance={"method": "cfg", "negative_messages": chat}, **fields).status_code == 200


def test_a_member_that_the_method_cannot_use_leaves_the_answer_its_room(
    every: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(every.serving.runtime.max_context, "safe", 20)
    assert every.chat(max_tokens=100).status_code == 200
    error = every.chat(max_tokens=100, guidance={"method": "mod"}).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "safe" in error["message"]


def test_every_role_is_listed(every: Any) -> None:
    with every.client() as client:
        listed = client.get("/v1/preferences").json()
    assert [entry["name"] for entry in listed["data"]] == ["helpful", "harmless"]
    assert listed["policies"] == [
        {"name": "safe", "description": ""},
        {"name": "kind", "description": "friendly"},
    ]
    assert listed["scorers"] == [{"name": "whole", "description": ""}]
    assert [entry["name"] for entry in listed["objectives"]] == ["brief", "clear"]
    methods = {method["name"]: method for method in listed["methods"]}
    assert (methods["proxy"]["available"], methods["proxy"]["needs"]) == (False, "rewards with a reference")
    assert methods["parm"]["preferences"] == ["brief", "clear"]
    assert methods["args"]["available"] is True
