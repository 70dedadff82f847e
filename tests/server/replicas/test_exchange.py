"""An app that is spoken to over a generator sees one request, and its client leaving when the generator is closed."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.replicas.exchange import exchange, head_of

HEAD = {"method": "POST", "path": "/x", "headers": [(b"a", b"b")], "query_string": b""}


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_the_app_sees_the_request_and_its_messages_come_in_their_order() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (scope["type"], scope["method"], scope["path"]) == ("http", "POST", "/x")
        body = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (body["body"], b"2", b"3"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def scenario() -> None:
        said = [message async for batch in exchange(app, HEAD, b"1") for message in batch]
        assert [message.get("body") for message in said] == [None, b"1", b"2", b"3", b""]

    play(scenario)


def test_what_is_said_while_nobody_reads_comes_at_once() -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        for _number in range(50):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def scenario() -> None:
        batches = [batch async for batch in exchange(app, HEAD, b"")]
        assert [len(batch) for batch in batches] == [50]

    play(scenario)


def test_whoever_closes_the_generator_is_a_client_that_leaves() -> None:
    seen: list[Message] = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        seen.append(await receive())

    async def scenario() -> None:
        messages = exchange(app, HEAD, b"")
        await anext(messages)
        await messages.aclose()
        assert seen == [{"type": "http.disconnect"}]

    play(scenario)


def test_an_app_that_does_not_hear_that_its_client_left_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.replicas.exchange.LEAVE_SECONDS", 0.01)
    ended: list[str] = []

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def scenario() -> None:
        task = asyncio.create_task(anext(messages := exchange(app, HEAD, b"")))
        await task
        await messages.aclose()
        await asyncio.sleep(0)
        assert ended == ["cancelled"]

    play(scenario)


def test_what_the_app_raises_comes_behind_what_it_said() -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("broke")

    async def scenario() -> None:
        messages = exchange(app, HEAD, b"")
        assert len(await anext(messages)) == 1
        with pytest.raises(RuntimeError, match="broke"):
            await anext(messages)

    play(scenario)


def test_of_a_scope_only_what_can_travel_is_taken() -> None:
    scope = {**HEAD, "type": "http", "app": object(), "state": {}, "extensions": {}, "http_version": "1.1"}
    assert head_of(scope) == {**HEAD, "http_version": "1.1"}
