"""What the events of a response say, taken together, is its output."""

from typing import Any

import pytest

from server.api.response_output import Output
from server.api.schema import Delta
from server.api.schema.chat import ContentLogprob
from server.api.schema.responses import ResponseEvent
from server.api.schema.structure import CalledFunctionDelta, ToolCallDelta


def logprob(token: str) -> ContentLogprob:
    return ContentLogprob(token=token, logprob=-1.0, bytes=list(token.encode()), top_logprobs=[])


def begun(index: int, name: str) -> ToolCallDelta:
    function = CalledFunctionDelta(name=name, arguments="")
    return ToolCallDelta(index=index, id=f"call_{index}", type="function", function=function)


def more(index: int, arguments: str) -> ToolCallDelta:
    return ToolCallDelta(index=index, function=CalledFunctionDelta(arguments=arguments))


def told(*deltas: tuple[Delta, list[ContentLogprob]], status: Any = "completed") -> tuple[Output, list[Any]]:
    output, events = Output(), list[ResponseEvent]()
    for delta, logprobs in deltas:
        events += output.push(delta, logprobs)
    events += output.end(status)
    return output, [event.model_dump(exclude_unset=True) for event in events]


def put_together(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output as a client collects it from the events, each of which must find what it adds to."""
    items: list[dict[str, Any]] = []
    open_items: set[int] = set()
    for event in events:
        at, kind = event["output_index"], event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert at == len(items)
            assert not open_items
            items.append(event["item"])
            open_items.add(at)
            continue
        assert open_items == {at}
        item = items[at]
        assert event.get("item_id", item["id"]) == item["id"]
        if kind == "content_part.added":
            item["content"].append(event["part"])
        elif kind == "output_text.delta":
            part = item["content"][event["content_index"]]
            part["text"] += event["delta"]
            part["logprobs"] += event["logprobs"]
        elif kind == "output_text.done":
            part = item["content"][event["content_index"]]
            assert (part["text"], part["logprobs"]) == (event["text"], event["logprobs"])
        elif kind == "content_part.done":
            assert item["content"][event["content_index"]] == event["part"]
        elif kind == "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        elif kind == "function_call_arguments.done":
            assert (item["arguments"], item["name"]) == (event["arguments"], event["name"])
        else:
            assert kind == "output_item.done"
            assert event["item"] == {**item, "status": event["item"]["status"]}
            items[at] = event["item"]
            open_items.clear()
    assert not open_items
    return items


SAID = (Delta(content="so "), [logprob("s"), logprob("o ")])
CALLED = (Delta(tool_calls=[begun(0, "get"), more(0, '{"a"')]), [logprob("call")])
ARGUED = (Delta(tool_calls=[more(0, ":1}"), begun(1, "add"), more(1, "{")]), [logprob("on")])
STORIES: dict[str, tuple[list[tuple[Delta, list[ContentLogprob]]], list[str]]] = {
    "text": ([SAID, SAID], ["message"]),
    "nothing": ([], ["message"]),
    "calls": ([CALLED, ARGUED, (Delta(), [logprob("end")])], ["function_call", "function_call"]),
    "text and calls": ([SAID, CALLED, ARGUED], ["message", "function_call", "function_call"]),
    "text and a call at once": (
        [(Delta(content="so", tool_calls=[begun(0, "get")]), [logprob("so")])],
        ["message", "function_call"],
    ),
    "an end without text": ([SAID, (Delta(), [logprob("end")])], ["message"]),
    "only an end": ([(Delta(), [logprob("end")])], ["message"]),
}


@pytest.mark.parametrize("status", ["completed", "incomplete"])
@pytest.mark.parametrize("story", STORIES)
def test_the_events_put_together_are_the_output(story: str, status: str) -> None:
    deltas, types = STORIES[story]
    output, events = told(*deltas, status=status)
    items = [item.model_dump() for item in output.items()]
    assert put_together(events) == items
    assert [item["type"] for item in items] == types
    assert [item["status"] for item in items] == ["completed"] * (len(items) - 1) + [status]


def test_text_has_the_log_probs_of_its_tokens_and_of_the_end() -> None:
    output, _ = told(SAID, (Delta(), [logprob("end")]))
    (item,) = output.items()
    assert item.type == "message"
    assert [one.token for one in item.content[0].logprobs] == ["s", "o ", "end"]


def test_log_probs_of_calls_are_not_the_texts() -> None:
    output, _ = told(SAID, CALLED, (Delta(), [logprob("end")]))
    message, _call = output.items()
    assert message.type == "message"
    assert [one.token for one in message.content[0].logprobs] == ["s", "o "]


def test_calls_have_their_names_ids_and_arguments() -> None:
    output, _ = told(CALLED, ARGUED)
    first, second = (item.model_dump() for item in output.items())
    assert (first["name"], first["call_id"], first["arguments"]) == ("get", "call_0", '{"a":1}')
    assert (second["name"], second["call_id"], second["arguments"]) == ("add", "call_1", "{")
    assert first["id"] != second["id"]


def test_a_failure_ends_only_what_was_begun() -> None:
    assert list(Output().break_off()) == []
    output = Output()
    events = [*output.push(*SAID), *output.break_off()]
    assert (
        put_together([event.model_dump(exclude_unset=True) for event in events])[0]["status"] == "incomplete"
    )
