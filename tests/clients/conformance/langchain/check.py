"""LangChain's ChatOpenAI: invoked, streamed, in batches; tools, structured output, presets by the model's name."""

import asyncio
import os
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

MODEL = os.environ["MODEL"]
CHAT = [SystemMessage("Be kind."), HumanMessage("how do I clean the oven?")]


class Weather(BaseModel):
    """What the weather is like."""

    sky: Literal["clear", "rain"]
    windy: bool


@tool
def look(far: bool) -> str:
    """Looks around."""
    return f"it is green {'over there' if far else 'here'}"


def connect(kind: Any = ChatOpenAI, **options: Any) -> Any:
    settings: dict[str, Any] = {"model": MODEL, "max_tokens": 24, "seed": 3, "max_retries": 0}
    return kind(base_url=f"{os.environ['BASE_URL']}/v1", api_key=os.environ["API_KEY"], **settings | options)


def joined(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return total


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": f"{MODEL}:kind"},
        {"extra_body": {"preferences": {"helpful": 1.0}}},
        {"use_responses_api": True},
    ],
    ids=["plain", "preset", "guided", "by responses"],
)
def test_a_stream_is_the_whole_answer_in_pieces(options: dict[str, Any]) -> None:
    settings = {"temperature": 0, "stream_usage": True} | options
    if "use_responses_api" in options:
        settings["seed"] = None  # that route has no seed
    model = connect(**settings)
    answer = model.invoke(CHAT)
    stream = joined(list(model.stream(CHAT)))
    assert stream.text == answer.text
    assert answer.text
    assert stream.usage_metadata == answer.usage_metadata
    usage = answer.usage_metadata
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert 0 < usage["output_tokens"] <= 24


def test_a_preset_answers_otherwise_than_the_model() -> None:
    texts = {connect(model=model, temperature=0).invoke(CHAT).text for model in (MODEL, f"{MODEL}:kind")}
    assert len(texts) == 2


def test_a_batch_answers_each_as_alone() -> None:
    model = connect(model=f"{MODEL}:kind")
    prompts = ["water", "soap", "the oven", "the garden"]
    alone = [model.invoke(prompt).text for prompt in prompts]
    assert [answer.text for answer in model.batch(prompts)] == alone
    assert [answer.text for answer in asyncio.run(model.abatch(prompts))] == alone


def test_log_probs_and_finish_reason_arrive() -> None:
    answer = connect(logprobs=True, top_logprobs=2).invoke(CHAT)
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    content = answer.response_metadata["logprobs"]["content"]
    assert len(content) > 0
    assert all(len(token["top_logprobs"]) == 2 for token in content)


def test_several_choices_arrive() -> None:
    result = connect(n=3).generate([CHAT])
    assert len({generation.text for generation in result.generations[0]}) == 3


def test_a_bound_tool_is_called_and_its_result_read() -> None:
    model = connect(model=f"{MODEL}:kind", max_tokens=300)
    calling = model.bind_tools([look], tool_choice="any", parallel_tool_calls=False)
    message = calling.invoke(CHAT)
    assert isinstance(message, AIMessage)
    (call,) = message.tool_calls
    assert not message.invalid_tool_calls
    streamed = joined(list(calling.stream(CHAT)))
    assert [(each["name"], each["args"]) for each in streamed.tool_calls] == [("look", call["args"])]
    result = look.invoke(call)
    assert isinstance(result, ToolMessage)
    assert connect(max_tokens=4).bind_tools([look]).invoke([*CHAT, message, result]) is not None


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_of_its_model(method: str) -> None:
    model = connect(model=f"{MODEL}:mixed", max_tokens=300)
    assert isinstance(model.with_structured_output(Weather, method=method).invoke(CHAT), Weather)


def test_the_older_completions_work() -> None:
    model = connect(OpenAI, temperature=0)
    text = model.invoke("water the plants")
    assert text
    assert "".join(model.stream("water the plants")) == text


def test_errors_are_the_clients_own() -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        connect(temperature=5).invoke(CHAT)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        connect(model="other").invoke(CHAT)
