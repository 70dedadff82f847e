"""LlamaIndex's OpenAILike: chats and completions, streamed and not, and tools."""

import asyncio
import os
from typing import Any

import openai
import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

MODEL = os.environ["MODEL"]
CHAT = [
    ChatMessage(role="system", content="Be kind."),
    ChatMessage(role="user", content="how do I clean the oven?"),
]


def connect(**options: Any) -> OpenAILike:
    settings: dict[str, Any] = {
        "model": MODEL,
        "context_window": 1024,
        "is_chat_model": True,
        "temperature": 0,
        "max_tokens": 24,
        "max_retries": 0,
    }
    return OpenAILike(
        api_base=f"{os.environ['BASE_URL']}/v1", api_key=os.environ["API_KEY"], **settings | options
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": f"{MODEL}:kind"},
        {
            "additional_kwargs": {"extra_body": {"preferences": {"helpful": 1.0}}, "seed": 1},
            "temperature": 1.0,
        },
    ],
    ids=["plain", "preset", "guided"],
)
def test_a_stream_of_a_chat_is_the_whole_answer_in_pieces(options: dict[str, Any]) -> None:
    model = connect(**options)
    answer = str(model.chat(CHAT).message.content)
    assert answer
    assert "".join(piece.delta or "" for piece in model.stream_chat(CHAT)) == answer
    assert str(asyncio.run(model.achat(CHAT)).message.content) == answer


@pytest.mark.parametrize("chat", [True, False], ids=["by chat", "by completions"])
def test_a_stream_of_a_completion_is_the_whole_answer_in_pieces(chat: bool) -> None:
    model = connect(is_chat_model=chat)
    answer = model.complete("water the plants").text
    assert answer
    assert "".join(piece.delta or "" for piece in model.stream_complete("water the plants")) == answer


def test_a_preset_answers_otherwise_than_the_model() -> None:
    texts = {str(connect(model=model).chat(CHAT).message.content) for model in (MODEL, f"{MODEL}:kind")}
    assert len(texts) == 2


def test_a_tool_is_called_with_what_it_takes() -> None:
    def look(far: bool) -> str:
        """Looks around."""
        return f"it is green {'over there' if far else 'here'}"

    tool = FunctionTool.from_defaults(look)
    model = connect(is_function_calling_model=True, max_tokens=300)
    response = model.chat_with_tools([tool], user_msg="look!", tool_required=True)
    calls = model.get_tool_calls_from_response(response)
    assert calls
    assert all(call.tool_name == "look" and isinstance(call.tool_kwargs["far"], bool) for call in calls)
    assert "green" in str(model.predict_and_call([tool], user_msg="look!", tool_required=True))


def test_errors_are_the_clients_own() -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        connect(additional_kwargs={"top_p": 7}).chat(CHAT)
    assert refused.value.param == "top_p"
    with pytest.raises(openai.NotFoundError):
        connect(model="other").chat(CHAT)
