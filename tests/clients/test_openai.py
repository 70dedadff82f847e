"""The official OpenAI client works, streamed and not, with our fields in ``extra_body``."""

from typing import Any

import openai
import pytest

CHAT: Any = [{"role": "user", "content": "how do I clean the oven?"}]


@pytest.fixture(scope="module")
def client(served: Any, key: str) -> Any:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)


def test_a_stream_guided_by_extra_body_equals_the_whole_answer(client: Any) -> None:
    fields: dict[str, Any] = {
        "model": "tiny",
        "messages": CHAT,
        "max_tokens": 30,
        "seed": 3,
        "extra_body": {
            "preferences": {"helpful": 0.5, "harmless": 1.5},
            "guidance": {"beta": 2},
            "ignore_eos": True,
        },
    }
    whole = client.chat.completions.create(**fields)
    stream = list(
        client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **fields)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == whole.choices[0].message.content
    assert text
    assert stream[0].choices[0].delta.role == "assistant"
    assert stream[-1].usage == whole.usage
    assert whole.usage.completion_tokens == 30
    assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] == "length"
    assert whole.guidance["preferences"] == {"helpful": 0.5, "harmless": 1.5}
    assert stream[-2].guidance == whole.guidance
    assert whole._request_id


def test_weights_change_the_answer(client: Any) -> None:
    def answer(**preferences: float) -> str:
        completion = client.chat.completions.create(
            model="tiny",
            messages=CHAT,
            max_tokens=30,
            temperature=0,
            extra_body={"preferences": preferences, "ignore_eos": True},
        )
        return str(completion.choices[0].message.content)

    assert len({answer(), answer(helpful=1), answer(harmless=2)}) == 3


def test_models_are_listed_with_their_presets(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "tiny:kind"]
    assert client.models.retrieve("tiny:kind").id == "tiny:kind"


def test_errors_become_the_clients_exceptions(client: Any, served: Any) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=CHAT, extra_body={"preferences": {"nope": 1}})
    assert bad.value.param == "preferences.nope"
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="other", messages=CHAT)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.BadRequestError) as many:
        client.chat.completions.create(model="tiny", messages=CHAT, n=17)
    assert many.value.param == "n"
    assert "at most 16" in many.value.message


def test_closing_a_stream_early_leaves_the_server_well(client: Any) -> None:
    for _ in range(3):
        with client.chat.completions.create(
            model="tiny", messages=CHAT, stream=True, extra_body={"ignore_eos": True}
        ) as stream:
            next(iter(stream))
    completion = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=2)
    assert completion.usage.completion_tokens <= 2
