"""Clients of one key that ask for as much as they can, in a process of their own: what they cost is not the measuring one's."""

import asyncio
import json
import multiprocessing
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import httpx

from server.bench.bodies import Bodies

BREATH = 0.05
"""Seconds after which a client that was refused for a full queue asks again: far earlier than Retry-After says."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a crowd asks for. ``prompt``: its tokens, or a text; None: as long as any of the workload, and so with ``tokens``,
    those of the answer. ``refused``: whether no such request can be answered."""

    name: str
    prompt: int | str | None = None
    tokens: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    refused: bool = False


class Crowd:
    """``clients`` of one ``key`` at the server ``url``, which is asked for nothing until ``start``; they end with the block."""

    def __init__(self, url: str, key: str, clients: int, bodies: Bodies) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._ours, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=_attend, args=(theirs, url, key, clients, bodies), name="crowd", daemon=True
        )

    def __enter__(self) -> Self:
        """Begins the process."""
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends it."""
        self._process.kill()
        self._process.join()
        self._ours.close()

    def start(self, shape: Shape) -> None:
        """All clients ask for this, one request after the other, until ``stop``; returns when they have begun."""
        self._ours.send(shape)
        self._ours.recv()

    def count(self) -> Counter[int]:
        """How many requests have ended since this was last asked, by status; 0 where the connection broke."""
        self._ours.send("count")
        return self._heard()

    def stop(self) -> Counter[int]:
        """All leave, whatever they wait for; as ``count``."""
        self._ours.send("stop")
        return self._heard()

    def _heard(self) -> Counter[int]:
        counts = self._ours.recv()
        if isinstance(counts, str):
            raise RuntimeError(counts)
        return Counter(counts)


def _attend(orders: Connection, url: str, key: str, clients: int, bodies: Bodies) -> None:
    """The process."""
    with suppress(EOFError, KeyboardInterrupt):
        asyncio.run(_obey(orders, url, key, clients, bodies))


async def _obey(orders: Connection, url: str, key: str, clients: int, bodies: Bodies) -> None:
    client = httpx.AsyncClient(
        base_url=url,
        timeout=300,
        # A connection for each request: one that is kept may be closed as idle at the moment in which it is used.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    answers = Counter[int]()
    tasks: list[asyncio.Task[None]] = []
    async with client:
        while True:
            order = await asyncio.to_thread(orders.recv)
            if isinstance(order, Shape):
                answers.clear()
                tasks = [asyncio.create_task(_ask(client, bodies, order, answers)) for _ in range(clients)]
                orders.send("begun")
                continue
            faults = [task.exception() for task in tasks if task.done() and not task.cancelled()]
            if order == "stop":
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            told = dict(answers)
            answers.clear()
            orders.send(repr(faults[0]) if faults else told)


async def _ask(client: httpx.AsyncClient, bodies: Bodies, shape: Shape, answers: Counter[int]) -> None:
    """Requests one after the other, as fast as they are answered or refused."""
    body = b""
    while True:
        # What is refused is sent again as it is: to make it anew would leave less of a flood.
        if not (body and shape.refused):
            body = json.dumps(bodies.make(shape.tokens, shape.prompt, **shape.fields)).encode()
        try:
            answer = await client.post("/v1/completions", content=body)
        except httpx.TransportError:
            # Reset, or closed as idle: who floods connects again.
            answers[0] += 1
            continue
        answers[answer.status_code] += 1
        if answer.status_code == 429:
            await asyncio.sleep(BREATH)
        elif answer.status_code != 400 or not shape.refused:
            answer.raise_for_status()
