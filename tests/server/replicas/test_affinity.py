"""Requests that begin with the same text of the same API key are alike, whatever they weigh."""

import json
from typing import Any

import pytest

from server.replicas.affinity import ANYWHERE, Likeness, likeness

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How do I clean the oven?"}]


def like(path: str = CHAT, session: str | None = None, owner: str = "", **fields: Any) -> Likeness:
    return likeness(path, session, owner, json.dumps(fields).encode())


def key(path: str = CHAT, session: str | None = None, owner: str = "", **fields: Any) -> str:
    """What such requests begin with; where that is short, it is also the conversation's key."""
    found = like(path, session, owner, **fields)
    assert found.beginning == found.conversation
    return found.beginning


def test_a_conversation_keeps_its_key_as_it_goes_on() -> None:
    later = [*HELLO, {"role": "assistant", "content": "With soap."}, {"role": "user", "content": "And then?"}]
    assert key(messages=HELLO) == key(messages=later) != ANYWHERE


def test_weights_model_and_sampling_make_no_difference() -> None:
    steered = key(
        messages=HELLO,
        preferences={"helpful": 2},
        guidance={"beta": 3},
        model="tiny:kind",
        seed=5,
        stream=True,
    )
    assert steered == key(messages=HELLO)


def test_another_question_and_another_system_prompt_have_another_key() -> None:
    other = [HELLO[0], {"role": "user", "content": "How do I clean the floor?"}]
    longer = [{"role": "system", "content": "Be long."}, HELLO[1]]
    assert len({key(messages=HELLO), key(messages=other), key(messages=longer)}) == 3


@pytest.mark.parametrize("role", ["system", "user"])
def test_behind_a_long_beginning_that_is_the_same_conversations_differ(role: str) -> None:
    """Whether the document that all ask about is in the system's prompt or before the question."""
    document = "The kettle was boiling. " * 40

    def asked(question: str) -> Likeness:
        if role == "user":
            return like(messages=[{"role": "user", "content": document + question}])
        return like(messages=[{"role": "system", "content": document}, {"role": "user", "content": question}])

    one, two = asked("Why?"), asked("When?")
    assert one.beginning == two.beginning != ANYWHERE
    assert one.conversation != two.conversation
    assert like(messages=[{"role": role, "content": "!" + document}]).beginning != one.beginning


def test_the_same_text_of_another_api_key_has_another_key() -> None:
    fields = {"messages": HELLO, "prompt_cache_key": "a"}
    for session in (None, "s"):
        assert key(session=session, owner="one", **fields) != key(session=session, owner="two", **fields)


def test_content_in_parts_is_the_same_text() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert key(messages=parts) == key(messages=[{"role": "user", "content": "a\nb"}])


def test_text_does_not_move_from_one_message_to_the_next() -> None:
    one = [{"role": "system", "content": "ab"}, {"role": "user", "content": "c"}]
    two = [{"role": "system", "content": "a"}, {"role": "user", "content": "bc"}]
    assert key(messages=one) != key(messages=two)


def test_a_session_wins_over_a_cache_key_and_that_over_the_text() -> None:
    other = [{"role": "user", "content": "something else"}]
    assert key(session="s", messages=HELLO) == key(session="s", messages=other, prompt_cache_key="k")
    assert key(messages=HELLO, prompt_cache_key="k") == key(messages=other, prompt_cache_key="k")
    assert (
        key(session="s", messages=HELLO) != key(messages=HELLO, prompt_cache_key="s") != key(messages=HELLO)
    )


def test_a_session_is_one_thing_on_all_routes() -> None:
    assert key(TEXT, "s", prompt="a") == key(CHAT, "s", messages=HELLO)


def test_raw_prompts_are_known_by_their_beginning() -> None:
    text, tokens = "x" * 600, list(range(200))
    assert key(TEXT, prompt=text) == key(TEXT, prompt=text + "y") == key(TEXT, prompt=[text, "other"])
    assert key(TEXT, prompt=tokens) == key(TEXT, prompt=[[*tokens, 7]])
    assert key(TEXT, prompt="a") != key(TEXT, prompt="b")
    assert key(TEXT, prompt=[1]) != key(TEXT, prompt=[2])
    assert key(TEXT, prompt=[120_000] * 127 + [1]) != key(TEXT, prompt=[120_000] * 127 + [2])
    assert key(TEXT, prompt=[-1, 1 << 70, 0xD800, True]) != ANYWHERE


def test_a_response_is_known_by_its_instructions_and_its_first_question() -> None:
    asked = key(RESPONSES, instructions="Be brief.", input="How do I clean the oven?")
    assert asked == key(
        RESPONSES, instructions="Be brief.", input=[HELLO[1], {"role": "user", "content": "?"}]
    )
    assert asked != key(RESPONSES, input="How do I clean the oven?")


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/", "/tokenize"])
def test_what_reads_no_prompt_goes_anywhere(path: str) -> None:
    assert key(path, "s", messages=HELLO) == ANYWHERE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"messages": 3}',
        b'{"messages": []}',
        b'{"prompt_cache_key": ""}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_cannot_be_read_goes_anywhere(body: bytes) -> None:
    assert likeness(CHAT, None, "", body) == (ANYWHERE, ANYWHERE)


@pytest.mark.parametrize(
    "messages", [[3], [{"role": 5, "content": 7}], [{"role": "user", "content": [3, {"text": 4}]}], [{}]]
)
def test_messages_that_a_replica_will_refuse_break_nothing(messages: Any) -> None:
    key(messages=messages)
    key(TEXT, prompt=messages)
    key(RESPONSES, input=messages)
