"""What strangers send is made harmless before Serve's proxy looks at it; who sends without end or takes nothing is left."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.replicas import doorway
from server.replicas.doorway import CALLBACK, Doorway, middlewares

Headers = Sequence[tuple[bytes, bytes]]
OK: list[Message] = [
    {"type": "http.response.start", "status": 200, "headers": []},
    {"type": "http.response.body", "body": b"ok"},
]


class Proxy:
    """Stands in for Serve's: reads until the client has left or its body is whole, then answers the former nothing."""

    def __init__(self, says: Sequence[Message] = OK) -> None:
        self.says = says
        self.headers: list[tuple[bytes, bytes]] = []
        self.read = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = scope["headers"]
        while (message := await receive())["type"] == "http.request":
            self.read += len(message["body"])
            if not message["more_body"]:
                break
        else:
            return
        for message in self.says:
            await send(message)


async def asked(app: ASGIApp, headers: Headers = (), chunks: Sequence[bytes] = (b"",)) -> list[Message]:
    """What a client of these headers is sent."""
    sent: list[Message] = []
    pending: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": number < len(chunks)}
        for number, chunk in enumerate(chunks, 1)
    ]

    async def receive() -> Message:
        return pending.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await Doorway(app)({"type": "http", "headers": list(headers)}, receive, send)
    return sent


def went_on(headers: Headers) -> dict[bytes, bytes]:
    proxy = Proxy()
    asyncio.run(asked(proxy, headers))
    found = dict(proxy.headers)
    assert len(found) == len(proxy.headers), "twice"
    return found


def test_serve_finds_it_by_its_name() -> None:
    module, _, name = CALLBACK.partition(":")
    assert (module, getattr(doorway, name)) == (doorway.__name__, middlewares)
    (one,) = middlewares()
    assert one.cls is Doorway


@pytest.mark.parametrize("sane", [b"mine-1", b"a.b_C-9", b"x" * 128])
def test_a_sane_request_id_stays(sane: bytes) -> None:
    assert went_on([(b"x-request-id", sane), (b"x-request-id", b"other")])[b"x-request-id"] == sane


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 129, b"\xff", "ü".encode(), b"a\tb", b"<script>"])
def test_another_is_made_where_it_is_not(given: bytes) -> None:
    made = went_on([(b"x-request-id", given)])[b"x-request-id"]
    assert made.startswith(b"req_")
    assert made != went_on([])[b"x-request-id"]


@pytest.mark.parametrize(
    "name",
    [
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
    ],
)
def test_what_is_meant_for_serve_does_not_come_from_clients(name: bytes) -> None:
    assert went_on([(name, b"1"), (b"x-own", b"1")]).keys() == {b"x-own", b"x-request-id"}


def test_all_else_goes_on_as_it_is_unless_serve_cannot_read_it() -> None:
    given = [
        (b"authorization", "Bearer ü".encode()),
        (b"x-session-id", b"\xff\xfe"),
        (b"x-own", b"1"),
    ]
    found = went_on(given)
    assert found[b"authorization"] == given[0][1]
    assert found[b"x-session-id"].decode() == "ÿþ"
    assert found[b"x-own"] == b"1"


def test_a_body_without_end_is_cut_off_and_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorway, "MOST_BODY", 1000)
    proxy = Proxy()
    start, body = asyncio.run(asked(proxy, [(b"x-request-id", b"mine")], [b"x" * 400] * 10))
    headers = dict(start["headers"])
    assert (start["status"], headers[b"connection"], headers[b"x-request-id"]) == (413, b"close", b"mine")
    assert b'"code":"request_too_large"' in body["body"]
    assert proxy.read == 800
    fits = Proxy()
    assert asyncio.run(asked(fits, chunks=[b"x" * 400, b"x" * 600])) == OK
    assert fits.read == 1000


def test_a_body_that_goes_on_behind_its_answer_gets_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorway, "MOST_BODY", 1000)

    async def hasty(_: Scope, receive: Receive, send: Send) -> None:
        for message in OK:
            await send(message)
        while (await receive())["type"] == "http.request":
            pass

    assert asyncio.run(asked(hasty, chunks=[b"x" * 400] * 10)) == OK


def test_there_are_no_websockets() -> None:
    async def scenario() -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError

        await Doorway(Proxy())({"type": "websocket", "headers": []}, receive, send)
        return sent

    assert asyncio.run(scenario()) == [{"type": "websocket.close", "code": 1008}]


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[int]:
    """The port of a real uvicorn, as Serve's proxy is one."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[sock]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            await task


def flooding(over: Callable[[], Any]) -> ASGIApp:
    """Says more than any buffer holds, and calls ``over`` when its client has left."""

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            over()

        leaving = asyncio.create_task(left())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(400):
            if leaving.done():
                return
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def test_a_client_that_takes_nothing_is_left_and_one_that_reads_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doorway, "SEND_SECONDS", 0.5)

    async def scenario() -> None:
        gone = asyncio.Event()
        async with listening(Doorway(flooding(gone.set))) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            await asyncio.wait_for(gone.wait(), 10)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                while True:
                    await reader.readexactly(1 << 16)
            writer.close()
            gone.clear()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            size = 0
            while chunk := await reader.read(1 << 20):
                size += len(chunk)
            assert size > 400 * 100_000
            writer.close()

    asyncio.run(scenario())


def test_where_the_connection_cannot_be_reached_the_request_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorway, "SEND_SECONDS", 0.01)

    async def never(_: Message) -> None:
        await asyncio.sleep(60)

    async def answer(_: Scope, __: Receive, send: Send) -> None:
        await send(OK[0])

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    doing: Awaitable[None] = Doorway(answer)({"type": "http", "headers": []}, receive, never)
    with pytest.raises(ConnectionAbortedError):
        asyncio.run(asyncio.wait_for(doing, 5))  # type: ignore[arg-type]
