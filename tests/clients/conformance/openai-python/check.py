"""The official Python client, 2.x and 3.x: what a user reaches through it, guided and not.

Every answer and chunk is validated again, strictly: the client itself takes what it gets without looking.
"""

import asyncio
import contextlib
import itertools
import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

MODEL = os.environ["MODEL"]
CHAT: Any = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "how do I clean the oven?"},
]
GUIDED = {"preferences": {"helpful": 0.5, "harmless": 1.5}, "guidance": {"beta": 2}}
ENDLESS = {"ignore_eos": True}


class Weather(BaseModel):
    """What the weather is like."""

    sky: Literal["clear", "cloudy", "rain"]
    windy: bool


class Move(BaseModel):
    """Move one step."""

    direction: Literal["north", "south"]
    running: bool


MOVE = openai.pydantic_function_tool(Move, name="move")
LOOK: Any = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"far": {"type": "boolean"}},
            "required": ["far"],
            "additionalProperties": False,
        },
    },
}


def connect(kind: Any = openai.OpenAI, url: str = "BASE_URL", **options: Any) -> Any:
    settings = {"api_key": os.environ["API_KEY"], "max_retries": 0} | options
    return kind(base_url=f"{os.environ[url]}/v1", **settings)


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with connect() as made:
        yield made


def strict(answer: Any, kind: Any = None) -> Any:
    """``answer``, if what was sent has every type that OpenAI's schema gives it."""
    (kind or type(answer)).model_validate_json(json.dumps(answer.to_dict(mode="json")), strict=True)
    return answer


def completion(answer: Completion) -> Any:
    """What was sent, if it has the types of the schema, which forgets two nulls that OpenAI itself sends.

    They are the finish_reason while a completion streams, and the log-prob of a text's first token.
    """
    told, filled = (answer.to_dict(mode="json") for _ in range(2))
    for choice in filled["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        logprobs = choice["logprobs"] or {"token_logprobs": []}
        if logprobs["token_logprobs"][:1] == [None]:
            logprobs["token_logprobs"][0] = 0
            logprobs["top_logprobs"][0] = {}
    Completion.model_validate_json(json.dumps(filled), strict=True)
    return told


@dataclass
class Part:
    """One choice of an answer, however it came."""

    text: str = ""
    finish_reason: str | None = None
    logprobs: list[Any] = field(default_factory=list)
    tool_calls: dict[int, list[str]] = field(default_factory=lambda: defaultdict(lambda: ["", ""]))


def whole_parts(answer: ChatCompletion) -> list[Part]:
    parts = []
    for index, choice in enumerate(strict(answer).choices):
        data = choice.to_dict(mode="json")
        assert choice.index == index
        assert {"index", "message", "logprobs", "finish_reason"} <= set(data)
        assert {"role", "content", "refusal"} <= set(data["message"])
        calls = {
            at: [call.function.name, call.function.arguments]
            for at, call in enumerate(choice.message.tool_calls or [])
        }
        logprobs = data["logprobs"]["content"] if data["logprobs"] else []
        parts.append(Part(choice.message.content or "", choice.finish_reason, logprobs, calls))
    return parts


def streamed_parts(chunks: Iterable[ChatCompletionChunk]) -> tuple[list[Part], Any]:
    """The choices of a stream, in which everything is where OpenAI's own example has it; and its usage."""
    parts: dict[int, Part] = defaultdict(Part)
    begun: set[int] = set()
    usage, same = None, set()
    for chunk in chunks:
        same.add((strict(chunk).id, chunk.created, chunk.model, chunk.object))
        assert usage is None, "something came after the usage"
        if not chunk.choices:
            usage = chunk.usage
        for choice in chunk.choices:
            part, delta = parts[choice.index], choice.delta
            assert part.finish_reason is None, "something came after the finish_reason"
            assert (delta.role == "assistant") == (choice.index not in begun)
            begun.add(choice.index)
            part.text += delta.content or ""
            part.finish_reason = choice.finish_reason
            if choice.logprobs:
                part.logprobs += choice.logprobs.to_dict(mode="json")["content"]
            for call in delta.tool_calls or []:
                assert bool(call.id) == (call.index not in part.tool_calls), (
                    "a call's id comes once, at its begin"
                )
                part.tool_calls[call.index][0] += call.function.name or ""
                part.tool_calls[call.index][1] += call.function.arguments or ""
    assert len(same) == 1
    assert sorted(parts) == list(range(len(parts)))
    return [parts[index] for index in sorted(parts)], usage


FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "greedy": {"temperature": 0},
    "guided": {"extra_body": GUIDED},
    "preset": {"model": f"{MODEL}:kind"},
    "three choices": {"n": 3, "extra_body": GUIDED},
    "logprobs": {"logprobs": True, "top_logprobs": 4, "extra_body": GUIDED},
    "choices with logprobs": {"n": 2, "logprobs": True},
    "penalties": {
        "presence_penalty": 1.5,
        "frequency_penalty": -0.5,
        "extra_body": {"repetition_penalty": 1.2},
    },
    "truncation": {"top_p": 0.8, "temperature": 1.4, "extra_body": {"top_k": 40, "min_p": 0.01}},
    "bias": {"logit_bias": {"20": 4, "21": -100}},
    "stop": {"stop": ["e", " t"], "logprobs": True},
    "no early end": {"extra_body": {"min_tokens": 20}, "stop": "e"},
    "json object": {"response_format": {"type": "json_object"}, "max_tokens": 60},
    "forced call": {
        "tools": [MOVE, LOOK],
        "tool_choice": "required",
        "extra_body": GUIDED,
        "max_tokens": 300,
    },
    "named call": {
        "tools": [MOVE, LOOK],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "n": 2,
        "max_tokens": 300,
    },
    "call if it likes": {"tools": [MOVE, LOOK]},
}


def counted(usage: Any) -> dict[str, Any]:
    """Usage without what depends on earlier requests: how much of the prompt was read before."""
    return {**usage.to_dict(), "prompt_tokens_details": None}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI, feature: str) -> None:
    fields: dict[str, Any] = {"model": MODEL, "messages": CHAT, "max_tokens": 40, "seed": 7} | FEATURES[
        feature
    ]
    answer = client.chat.completions.create(**fields)
    chunks = client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    parts, usage = streamed_parts(chunks)
    assert parts == whole_parts(answer)
    assert counted(usage) == counted(answer.usage)
    assert len(parts) == fields.get("n", 1)
    assert all(part.finish_reason in ("stop", "length", "tool_calls") for part in parts)


def test_a_seed_gives_the_same_answer_alone_and_beside_others() -> None:
    async def ask() -> tuple[list[str], list[str]]:
        async with connect(openai.AsyncOpenAI) as client:

            async def one(seed: int) -> str:
                answer = await client.chat.completions.create(
                    model=f"{MODEL}:kind", messages=CHAT, max_tokens=30, seed=seed
                )
                return str(strict(answer).choices[0].message.content)

            async def streamed(seed: int) -> str:
                chunks = await client.chat.completions.create(
                    model=f"{MODEL}:kind", messages=CHAT, max_tokens=30, seed=seed, stream=True
                )
                parts, _ = streamed_parts([chunk async for chunk in chunks])
                return parts[0].text

            alone = [await one(seed) for seed in range(4)]
            together = await asyncio.gather(*map(one, range(4)), *map(streamed, range(4)))
            return alone, list(together)

    alone, together = asyncio.run(ask())
    assert together == alone + alone
    assert len(set(alone)) == 4


def test_choices_differ_and_the_first_is_that_of_one_choice(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {
        "model": MODEL,
        "messages": CHAT,
        "max_tokens": 30,
        "seed": 5,
        "extra_body": GUIDED,
    }
    one, eight = client.chat.completions.create(**fields), client.chat.completions.create(**fields, n=8)
    parts = whole_parts(eight)
    assert parts[0] == whole_parts(one)[0]
    assert len({part.text for part in parts}) == 8
    assert strict(eight).usage.prompt_tokens == one.usage.prompt_tokens


def test_logprobs_are_a_distribution_and_spell_the_text(client: openai.OpenAI) -> None:
    special = {str(token): -100 for token in range(5)}
    answer = client.chat.completions.create(
        model=MODEL, messages=CHAT, max_tokens=20, logprobs=True, top_logprobs=20, logit_bias=special, seed=2
    )
    content = strict(answer).to_dict(mode="json")["choices"][0]["logprobs"]["content"]
    assert len(content) == answer.usage.completion_tokens == 20
    spelled = b"".join(bytes(token["bytes"]) for token in content)
    assert spelled.decode(errors="replace") == answer.choices[0].message.content
    for token in content:
        best = [other["logprob"] for other in token["top_logprobs"]]
        assert len(best) == 20
        assert best == sorted(best, reverse=True)
        assert token["logprob"] <= best[0] <= 0
        assert sum(2.718281828**logprob for logprob in best) <= 1.0001
    assert answer.choices[0].logprobs.refusal is None


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {
        "model": MODEL,
        "messages": CHAT,
        "seed": 4,
        "max_tokens": 60,
        "extra_body": ENDLESS,
    }
    text = client.chat.completions.create(**fields).choices[0].message.content
    assert text
    stop = text[10:13]
    (part,) = whole_parts(client.chat.completions.create(**fields, stop=stop))
    assert part.text == text[: text.index(stop)]
    assert part.finish_reason == "stop"


def test_weights_change_in_the_middle_of_a_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=CHAT, max_tokens=600, stream=True, temperature=0, extra_body=ENDLESS
    )
    chunks = [next(stream)]
    changed: Any = client.patch(
        f"/chat/completions/{chunks[0].id}", body={"preferences": {"harmless": 2.0}}, cast_to=object
    )
    chunks += stream
    streamed_parts(chunks)
    (change,) = chunks[-1].guidance["changes"]
    assert 0 < change["at_token"] == changed["at_token"] < 600
    assert change["preferences"] == {"helpful": 0.0, "harmless": 2.0}
    with pytest.raises(openai.NotFoundError):
        client.patch(f"/chat/completions/{chunks[0].id}", body={"preferences": {}}, cast_to=object)


def test_a_request_is_cancelled_and_says_so(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=CHAT, max_tokens=600, stream=True, extra_body=ENDLESS
    )
    first = next(stream)
    client.delete(f"/chat/completions/{first.id}", cast_to=object)
    chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].guidance["cancelled"] is True


def test_usage_is_told_with_every_chunk_if_asked(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=CHAT,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True, "continuous_usage_stats": True},
            extra_body=ENDLESS,
        )
    )
    counts = [strict(chunk).usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 12
    assert {chunk.usage.prompt_tokens for chunk in chunks} == {chunks[-1].usage.prompt_tokens}
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 0


def test_the_report_says_what_the_base_alone_thought(client: openai.OpenAI) -> None:
    body = GUIDED | {"guidance": {"beta": 2, "report": "tokens"}}
    answer = client.chat.completions.create(
        model=MODEL, messages=CHAT, max_tokens=10, logprobs=True, extra_body=body
    )
    report = strict(answer).guidance
    tokens = answer.choices[0].guidance["tokens"]
    assert len(tokens) == len(answer.choices[0].logprobs.content)
    assert sum(token["base_logprob"] for token in tokens) == pytest.approx(report["base_logprob"])
    assert sum(token["kl"] for token in tokens) / len(tokens) == pytest.approx(report["mean_kl"])
    assert 0 <= report["flip_rate"] <= 1
    assert set(report["rewards"]) == {"helpful", "harmless"}


def test_a_pydantic_model_is_filled(client: openai.OpenAI) -> None:
    for seed in range(4):
        answer = client.chat.completions.parse(
            model=f"{MODEL}:kind", messages=CHAT, response_format=Weather, seed=seed, max_tokens=200
        )
        strict(answer, ChatCompletion)
        assert isinstance(answer.choices[0].message.parsed, Weather)
        assert answer.choices[0].finish_reason == "stop"


def test_forced_calls_have_arguments_of_their_schema(client: openai.OpenAI) -> None:
    for seed in range(4):
        answer = client.chat.completions.create(
            model=f"{MODEL}:mixed",
            messages=CHAT,
            tools=[MOVE, LOOK],
            tool_choice="required",
            parallel_tool_calls=False,
            seed=seed,
            max_tokens=300,
        )
        (call,) = strict(answer).choices[0].message.tool_calls
        arguments = json.loads(call.function.arguments)
        if call.function.name == "move":
            Move.model_validate(arguments, strict=True)
        else:
            assert set(arguments) == {"far"}
        assert answer.choices[0].finish_reason == "tool_calls"


def test_a_call_and_its_result_go_on_as_a_conversation(client: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "function": {"name": "move"}}
    answer = client.chat.completions.create(
        model=MODEL,
        messages=CHAT,
        tools=[MOVE, LOOK],
        tool_choice=choice,
        parallel_tool_calls=False,
        max_tokens=300,
    )
    message = answer.choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "move"
    result = {"role": "tool", "tool_call_id": call.id, "content": "done"}
    more = client.chat.completions.create(
        model=MODEL, messages=[*CHAT, message.to_dict(), result], tools=[MOVE, LOOK], max_tokens=8
    )
    assert strict(more).usage.prompt_tokens > answer.usage.prompt_tokens


def test_the_clients_stream_helper_parses_a_call(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=CHAT,
        tools=[MOVE],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=300,
    ) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert [event.name for event in done] == ["move"]
    assert isinstance(done[0].parsed_arguments, Move)
    assert final.choices[0].message.tool_calls[0].function.parsed_arguments == done[0].parsed_arguments


def test_no_call_is_made_where_none_is_wanted(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=CHAT, tools=[MOVE], tool_choice="none", max_tokens=20
    )
    assert strict(answer).choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason in ("stop", "length")


@pytest.mark.parametrize(
    "fields", [{}, {"n": 2}, {"logprobs": 3}, {"echo": True, "logprobs": 2}, {"stop": "e"}]
)
def test_a_completion_streams_what_it_answers(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    for prompt in ("water the plants", ["water", "the garden is"], [20, 30, 40], [[20, 30], [40, 50, 60]]):
        asked: Any = {"model": f"{MODEL}:kind", "prompt": prompt, "max_tokens": 12, "seed": 3} | fields
        answer = completion(client.completions.create(**asked))
        several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        count = (len(prompt) if several else 1) * fields.get("n", 1)
        assert [choice["index"] for choice in answer["choices"]] == list(range(count))
        chunks = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        texts, reasons = [""] * count, [None] * count
        logprobs: dict[int, list[Any]] = defaultdict(list)
        usage = None
        for chunk in chunks:
            for choice in completion(chunk)["choices"]:
                texts[choice["index"]] += choice["text"]
                reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
                if choice["logprobs"]:
                    logprobs[choice["index"]] += choice["logprobs"]["token_logprobs"]
            usage = chunk.usage
        assert texts == [choice["text"] for choice in answer["choices"]]
        assert reasons == [choice["finish_reason"] for choice in answer["choices"]]
        assert usage is not None
        assert usage.to_dict() == answer["usage"]
        if "logprobs" in fields:
            whole = [choice["logprobs"]["token_logprobs"] for choice in answer["choices"]]
            assert [logprobs[index] for index in range(count)] == whole


def test_a_prompt_is_scored_without_writing_anything(client: openai.OpenAI) -> None:
    ids = [20, 30, 40, 50]
    answer = client.completions.create(model=MODEL, prompt=ids, max_tokens=0, echo=True, logprobs=1)
    completion(answer)
    logprobs = answer.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None
    assert all(logprob < 0 for logprob in logprobs.token_logprobs[1:])
    assert len(logprobs.token_logprobs) == len(logprobs.tokens) == len(logprobs.text_offset) == len(ids)
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert answer.usage.completion_tokens == 0


def test_models_and_presets_are_listed(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [strict(model).id for model in models] == [MODEL, f"{MODEL}:kind", f"{MODEL}:mixed"]
    assert strict(client.models.retrieve(f"{MODEL}:kind")).id == f"{MODEL}:kind"


def test_a_preset_is_its_weights(client: openai.OpenAI) -> None:
    def text(model: str, **body: Any) -> str:
        answer = client.chat.completions.create(
            model=model, messages=CHAT, temperature=0, max_tokens=20, extra_body=body
        )
        return str(answer.choices[0].message.content)

    assert text(f"{MODEL}:kind") == text(MODEL, preferences={"harmless": 2.0}) != text(MODEL)


def test_a_response_streams_what_it_answers(client: openai.OpenAI) -> None:
    fields: Any = {"model": f"{MODEL}:kind", "input": "hello", "max_output_tokens": 16, "temperature": 0}
    answer = strict(client.responses.create(**fields))
    assert answer.status in ("completed", "incomplete")
    assert answer.usage.output_tokens <= 16
    events = [strict(event) for event in client.responses.create(**fields, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == answer.output_text == events[-1].response.output_text
    assert events[-1].response.usage == answer.usage
    with client.responses.stream(**fields) as stream:
        done = [event.text for event in stream if event.type == "response.output_text.done"]
    assert done == [answer.output_text]


def test_a_response_is_guided_by_extra_body(client: openai.OpenAI) -> None:
    def text(**body: Any) -> str:
        answer = client.responses.create(
            model=MODEL, input=CHAT, max_output_tokens=20, temperature=0, extra_body=body
        )
        return answer.output_text

    assert text(**GUIDED) != text()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": ({"temperature": 3}, "temperature"),
    "n": ({"n": 10**9}, "n"),
    "a bias of no token": ({"logit_bias": {"cat": 1}}, "logit_bias.cat"),
    "a bias beyond the vocabulary": ({"logit_bias": {"300": 1}}, "logit_bias.300"),
    "too many log-probs": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "log-probs not asked for": ({"top_logprobs": 2}, "top_logprobs"),
    "an unknown field": ({"extra_body": {"colour": "red"}}, "colour"),
    "an unknown preference": ({"extra_body": {"preferences": {"nope": 1}}}, "preferences.nope"),
    "a choice without tools": ({"tool_choice": "required"}, "tool_choice"),
    "no chat": ({"messages": []}, "messages"),
    "an unknown role": ({"messages": [{"role": "king", "content": "hello"}]}, "messages[0].role"),
    "no place for the answer": ({"max_tokens": 100_000}, "messages"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_field_is_named(client: openai.OpenAI, case: str) -> None:
    changes, param = REFUSED[case]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": MODEL, "messages": CHAT, **changes})
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert set(refused.value.body) == {"message", "type", "param", "code"}
    assert len(refused.value.message) < 2000
    assert refused.value.request_id


def test_every_error_has_the_clients_type(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="other", messages=CHAT)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.AuthenticationError) as forbidden:
        connect(api_key="wrong").models.list()
    assert forbidden.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=MODEL, prompt=[20] * 5000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as stateful:
        client.responses.create(model=MODEL, input="hello", previous_response_id="resp_1")
    assert stateful.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=MODEL, input="hello")


@contextlib.contextmanager
def occupied() -> Iterator[Any]:
    """The small server has its one place taken by this stream."""
    with connect(url="SMALL_URL") as holder:
        stream = holder.chat.completions.create(
            model=MODEL, messages=CHAT, stream=True, max_tokens=900, extra_body=ENDLESS
        )
        next(stream)
        yield stream
        stream.close()


def counting(retries: list[int], **options: Any) -> Any:
    """A client of the small server; each request it sends adds its number of the try to ``retries``."""

    def note(request: Any) -> None:
        retries.append(int(request.headers["x-stainless-retry-count"]))

    web = openai.DefaultHttpxClient(event_hooks={"request": [note]})
    return connect(url="SMALL_URL", http_client=web, **options)


def test_a_full_queue_is_told_with_when_to_come_back() -> None:
    tries: list[int] = []
    with occupied(), pytest.raises(openai.RateLimitError) as full:
        counting(tries).chat.completions.create(model=MODEL, messages=CHAT, max_tokens=1)
    assert tries == [0]
    assert float(full.value.response.headers["retry-after"]) >= 1
    assert set(full.value.body) == {"message", "type", "param", "code"}


def test_the_client_comes_back_until_there_is_a_place() -> None:
    tries: list[int] = []
    with occupied() as stream:
        threading.Timer(0.3, stream.close).start()
        answer = counting(tries, max_retries=5).chat.completions.create(
            model=MODEL, messages=CHAT, max_tokens=1
        )
    assert answer.usage.completion_tokens == 1
    assert tries == list(itertools.islice(itertools.count(), len(tries)))
    assert len(tries) >= 2
