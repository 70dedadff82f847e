"""An ASGI app spoken to as a generator: one request in, batches of its messages out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Scope

Head = dict[str, Any]
"""What of an ASGI scope goes from one process to another: bytes, text and lists of them."""

_PARTS = (
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
    "client",
    "server",
)

LEAVE_SECONDS = 5.0
"""How long an app may take to end once its client is gone."""


def head_of(scope: Mapping[str, Any]) -> Head:
    """What of a request is not its body."""
    return {name: scope[name] for name in _PARTS if name in scope}


async def exchange(app: ASGIApp, head: Head, body: bytes) -> AsyncGenerator[list[Message]]:
    """The messages of ``app``'s answer, each batch what there is by then. Whoever closes the generator is a client that leaves.

    Raises:
        Exception: what the app raised, after its messages.
    """
    said: list[Message] = []
    news, gone, asked = asyncio.Event(), asyncio.Event(), False

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        said.append(message)
        news.set()

    scope: Scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, **head, "state": {}}
    task = asyncio.ensure_future(app(scope, receive, send))
    task.add_done_callback(lambda _: news.set())
    try:
        while not (task.done() and not said):
            await news.wait()
            news.clear()
            if said:
                batch, said = said, []
                yield batch
        task.result()
    finally:
        gone.set()
        if not task.done():
            await asyncio.wait((task,), timeout=LEAVE_SECONDS)
            task.cancel()
