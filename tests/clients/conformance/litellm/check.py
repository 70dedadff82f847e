"""LiteLLM, by its plain ``openai/`` route and by ``hosted_vllm/``, which knows the fields of open servers."""

import asyncio
import json
import os
from typing import Any, Literal

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read while it is imported: nothing is fetched

import litellm
import pytest
from pydantic import BaseModel

MODEL = os.environ["MODEL"]
CHAT = [{"role": "user", "content": "how do I clean the oven?"}]
SERVER = {"api_base": f"{os.environ['BASE_URL']}/v1", "api_key": os.environ["API_KEY"], "max_retries": 0}
GUIDED = {"extra_body": {"preferences": {"helpful": 0.5, "harmless": 1.5}}}
ROUTES = ["openai", "hosted_vllm"]
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"far": {"type": "boolean"}},
            "required": ["far"],
            "maxProperties": 1,  # "additionalProperties" is taken out on the way by hosted_vllm/
        },
    },
}


class Weather(BaseModel):
    """What the weather is like."""

    sky: Literal["clear", "rain"]
    windy: bool


def ask(route: str, model: str = MODEL, **fields: Any) -> Any:
    return litellm.completion(
        model=f"{route}/{model}", messages=CHAT, **SERVER, **{"max_tokens": 24} | fields
    )


@pytest.mark.parametrize("route", ROUTES)
def test_a_stream_is_the_whole_answer_in_pieces(route: str) -> None:
    for model in (MODEL, f"{MODEL}:kind"):
        for fields in ({}, GUIDED):
            answer = ask(route, model, seed=3, **fields)
            chunks = list(
                ask(route, model, seed=3, stream=True, stream_options={"include_usage": True}, **fields)
            )
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            assert text == answer.choices[0].message.content
            assert text
            reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
            assert [reason for reason in reasons if reason] == [answer.choices[0].finish_reason]
            assert chunks[-1].usage.total_tokens == answer.usage.total_tokens


@pytest.mark.parametrize("route", ROUTES)
def test_fields_of_ours_reach_the_server_and_come_back(route: str) -> None:
    answer = ask(route, **GUIDED)
    assert answer.model_dump()["guidance"]["preferences"] == {"helpful": 0.5, "harmless": 1.5}


@pytest.mark.parametrize("route", ROUTES)
def test_answers_come_side_by_side(route: str) -> None:
    async def together() -> list[str]:
        asked = [
            litellm.acompletion(model=f"{route}/{MODEL}", messages=CHAT, seed=seed, max_tokens=12, **SERVER)
            for seed in range(4)
        ]
        return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    alone = [ask(route, seed=seed, max_tokens=12).choices[0].message.content for seed in range(4)]
    assert asyncio.run(together()) == alone


@pytest.mark.parametrize("route", ROUTES)
def test_choices_and_log_probs_arrive(route: str) -> None:
    answer = ask(route, n=2, logprobs=True, top_logprobs=3, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert len(choice.logprobs.content[0].top_logprobs) == 3


@pytest.mark.parametrize("route", ["text-completion-openai", "hosted_vllm"])
def test_text_completions_work(route: str) -> None:
    def complete(**fields: Any) -> Any:
        return litellm.text_completion(
            model=f"{route}/{MODEL}:kind",
            prompt="water the plants",
            max_tokens=12,
            temperature=0,
            **SERVER,
            **fields,
        )

    text = complete().choices[0].text
    assert text
    assert "".join(chunk.choices[0].text or "" for chunk in complete(stream=True)) == text


@pytest.mark.parametrize("route", ROUTES)
def test_a_forced_call_has_arguments_of_its_schema(route: str) -> None:
    # A model of random weights may make calls until it is cut off in the middle of one.
    one = {"extra_body": {"parallel_tool_calls": False}}
    answer = ask(route, tools=[LOOK], tool_choice="required", max_tokens=300, **one)
    calls = answer.choices[0].message.tool_calls
    assert calls
    assert all(isinstance(json.loads(call.function.arguments)["far"], bool) for call in calls)
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("route", ROUTES)
def test_a_schema_is_filled(route: str) -> None:
    answer = ask(route, f"{MODEL}:kind", response_format=Weather, max_tokens=200)
    Weather.model_validate_json(answer.choices[0].message.content)


@pytest.mark.parametrize("route", ROUTES)
def test_errors_have_litellms_types(route: str) -> None:
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        ask(route, temperature=5)
    with pytest.raises(litellm.NotFoundError):
        ask(route, "other")
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(model=f"{route}/{MODEL}", messages=CHAT, **SERVER | {"api_key": "wrong"})
