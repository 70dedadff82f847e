"""Server-sent events as OpenAI's clients read them: ``data:`` lines, comments to keep the line open, [DONE]
at the end of what went well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pydantic import BaseModel
from pydantic_core import to_json
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

from server.api.dispatcher import Dispatcher
from server.api.generation import Generation
from server.errors import ApiError

DONE = b"data: [DONE]\n\n"
PING_SECONDS = 15

# JSON may hold these raw, but clients that split text into lines would cut an event there.
_LINE_BREAKS = (("\x85", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))


def event(body: BaseModel) -> bytes:
    """One event; only the fields that were set are sent."""
    text = body.model_dump_json(exclude_unset=True)
    for raw, escaped in _LINE_BREAKS:
        if raw in text:
            text = text.replace(raw, escaped)
    return b"data: " + text.encode() + b"\n\n"


def error_event(error: ApiError) -> bytes:
    """The last event of a stream that failed; no [DONE] follows."""
    return b"data: " + to_json(error.body()) + b"\n\n"


def comment(text: str) -> bytes:
    """A line that is no event, for whoever watches."""
    return b": " + " ".join(text.split()).encode() + b"\n\n"


class EventStream(EventSourceResponse):
    """Sends the ``events`` of a request and abandons it when no more is sent, even if the client left before the first event
    was asked for. A client that does not read is left, its connection closed.
    """

    def __init__(self, events: AsyncIterator[bytes], generation: Generation, dispatcher: Dispatcher) -> None:
        super().__init__(
            events,
            sep="\n",
            ping=PING_SECONDS,
            ping_message_factory=_keep_alive,
            data_sender_callable=self._until_cut,
        )
        self._generation = generation
        self._dispatcher = dispatcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one response."""
        seconds = self._dispatcher.send_seconds

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(seconds):
                    await send(message)
            except TimeoutError:
                self._dispatcher.cut(
                    self._generation, f"a write of the stream took longer than {seconds:g} s"
                )
                raise _Left from None

        try:
            await super().__call__(scope, receive, send_in_time)
        except* _Left:
            await _abort(scope)
        finally:
            self._dispatcher.abandon(self._generation)

    async def _until_cut(self) -> None:
        """Runs beside the sending and ends it."""
        await self._generation.is_cut.wait()
        raise _Left


class _Left(Exception):
    """The client is left."""


async def _abort(scope: Scope) -> None:
    """Closes the connection with what is not sent, where the server that has it lets us (see ``Connection``)."""
    abort = scope.get("state", {}).get("abort")
    if abort is not None:
        abort()
        await asyncio.sleep(0)  # until uvicorn has heard of it


def _keep_alive() -> ServerSentEvent:
    return ServerSentEvent(comment="keep-alive", sep="\n")
