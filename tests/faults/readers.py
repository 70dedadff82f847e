"""How a soak's answers are read: to the end, slowly, hardly, or not to the end; and changed on the way."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.faults.traffic import Asked, weights


@dataclass
class Said:
    """One choice of an answer."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass
class Heard:
    """What came of a request.

    Attributes:
        status: 0 where the reader went before there was one.
        whole: whether it was read to its end.
        changes: of a steered one, from which token on which preferences hold.
        error: what the server said went wrong, in the body or in the stream.
        broken: what must not be.
        cut: whether the server closed the connection before the end.
    """

    status: int = 0
    whole: bool = False
    choices: dict[int, Said] = field(default_factory=dict)
    changes: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    broken: str = ""
    cut: bool = False

    @property
    def tokens(self) -> int:
        """Tokens that came, where the request asked for their ids."""
        return sum(len(choice.tokens) for choice in self.choices.values())

    def take(self, choice: dict[str, Any]) -> None:
        """A choice of a body or of a chunk."""
        said = self.choices.setdefault(choice["index"], Said())
        part = choice.get("message") or choice.get("delta") or {}
        said.text += choice.get("text") or part.get("content") or ""
        said.tokens += choice.get("token_ids") or ()
        said.finish_reason = choice.get("finish_reason") or said.finish_reason


Reader = Callable[[httpx.AsyncClient, Asked, random.Random], Awaitable[Heard]]


async def read_body(client: httpx.AsyncClient, asked: Asked, _: random.Random) -> Heard:
    """All at once."""
    response = await _send(client, asked, 120)
    heard = Heard(response.status_code, whole=True)
    _tell(heard, response.content)
    return heard


async def read_stream(client: httpx.AsyncClient, asked: Asked, _: random.Random) -> Heard:
    """As it comes, to the end."""
    heard = Heard()
    async with aclosing(_events(client, asked, heard)) as events:
        async for event in events:
            _take(heard, event)
    return heard


async def read_slowly(client: httpx.AsyncClient, asked: Asked, rng: random.Random) -> Heard:
    """To the end, with a rest behind every event."""
    heard, rest = Heard(), rng.uniform(0.01, 0.06)
    async with aclosing(_events(client, asked, heard)) as events:
        async for event in events:
            _take(heard, event)
            await asyncio.sleep(rest)
    return heard


async def leave(client: httpx.AsyncClient, asked: Asked, rng: random.Random) -> Heard:
    """In the middle, the connection with it."""
    heard, after = Heard(), rng.choice((0, 1, 5, 20, 60))
    async with aclosing(_events(client, asked, heard)) as events:
        count = 0
        async for event in events:
            _take(heard, event)
            count += 1
            if count > after:
                break
    return heard


async def give_up(client: httpx.AsyncClient, asked: Asked, rng: random.Random) -> Heard:
    """Soon, unless it is there by then."""
    try:
        response = await _send(client, asked, rng.uniform(0.02, 0.4))
    except httpx.TimeoutException:
        return Heard()
    heard = Heard(response.status_code)
    _tell(heard, response.content)
    return heard


async def steer(client: httpx.AsyncClient, asked: Asked, rng: random.Random) -> Heard:
    """To the end, with a change of weights or two on the way."""
    heard = Heard(changes=[(0, asked.body["preferences"])])
    places = sorted(rng.sample(range(1, 60), rng.randint(1, 2)))
    async with aclosing(_events(client, asked, heard)) as events:
        async for event in events:
            _take(heard, event)
            if places and heard.tokens >= places[0] and not heard.whole:
                places.pop(0)
                await _change(client, f"{asked.path}/{json.loads(event)['id']}", heard, weights(rng))
    return heard


SIP = 200
"""Bytes that somebody takes who hardly reads, twenty times in a second."""


async def clog(client: httpx.AsyncClient, asked: Asked, rng: random.Random) -> Heard:
    """A few bytes at a time through small buffers on both sides; then no more, unless the server has closed it by then."""
    place = urlsplit(str(client.base_url))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # the server's buffer goes by it
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (place.hostname, place.port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
        writer.write(
            f"POST {asked.path} HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\n"
            f"authorization: {client.headers['authorization']}\r\ncontent-length: {len(asked.sent)}\r\n\r\n".encode()
            + asked.sent
        )
        heard = await _sip(reader, rng)
        writer.transport.abort()
    return heard


async def _sip(reader: asyncio.StreamReader, rng: random.Random) -> Heard:
    head, read = b"", b""
    try:
        head = await reader.readline()
        for _ in range(rng.randint(5, 100)):
            if not (part := await reader.read(SIP)):
                break
            read += part
            await asyncio.sleep(0.05)
        else:
            return Heard(int(head.split()[1]))
    except ConnectionError:
        pass
    status = int(head.split()[1]) if head else 0
    return Heard(status, cut=status == 200 and not read.endswith(b"\r\n0\r\n\r\n"))


READERS: dict[str, Reader] = {
    "whole": read_body,
    "several": read_body,
    "bad": read_body,
    "streamed": read_stream,
    "search": read_stream,
    "newcomer": read_stream,
    "endless": read_stream,
    "steered": steer,
    "left": leave,
    "impatient": give_up,
    "slow": read_slowly,
    "clogged": clog,
}
"""By kind of request."""


async def read(client: httpx.AsyncClient, asked: Asked, rng: random.Random) -> Heard:
    """Ask, and read as the kind of request says; bodies that do not stream are read at once.

    Raises:
        httpx.HTTPError: the connection failed.
    """
    reader = READERS[asked.kind]
    if reader is read_stream and not asked.body.get("stream"):
        reader = read_body
    return await reader(client, asked, rng)


async def _send(client: httpx.AsyncClient, asked: Asked, seconds: float) -> httpx.Response:
    return await client.request(
        asked.method,
        asked.path,
        content=asked.sent,
        headers={"content-type": "application/json"} | asked.headers,
        timeout=seconds,
    )


async def _events(client: httpx.AsyncClient, asked: Asked, heard: Heard) -> AsyncIterator[str]:
    """Data of each event; ``heard`` gets the status, and the error where it is none of a stream."""
    headers = {"content-type": "application/json"} | asked.headers
    async with client.stream(
        asked.method, asked.path, content=asked.sent, headers=headers, timeout=120
    ) as response:
        heard.status = response.status_code
        if response.status_code != 200:
            _tell(heard, await response.aread())
            return
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                yield line.removeprefix("data: ")


def _take(heard: Heard, event: str) -> None:
    if heard.whole or heard.error:
        heard.broken = f"an event behind the last: {event}"
    if event == "[DONE]":
        heard.whole = True
        return
    chunk = json.loads(event)
    heard.error = chunk.get("error", heard.error)
    for choice in chunk.get("choices", ()):
        heard.take(choice)


def _tell(heard: Heard, content: bytes) -> None:
    body = json.loads(content)
    heard.error = body.get("error")
    for choice in body.get("choices", ()):
        heard.take(choice)


async def _change(client: httpx.AsyncClient, path: str, heard: Heard, preferences: dict[str, float]) -> None:
    answer = await client.patch(path, json={"preferences": preferences}, timeout=60)
    if answer.status_code == 200:
        heard.changes.append((answer.json()["at_token"], preferences))
    elif answer.status_code != 404:  # it is over
        heard.broken = f"PATCH: {answer.status_code}: {answer.text}"
