"""Server-sent events as OpenAI's clients read them: ``data:`` lines, comments to keep the line open, [DONE]
at the end of what went well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from pydantic import BaseModel
from pydantic_core import to_json
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.types import Receive, Scope, Send

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
    """Sends ``events``; ``ended`` is called when no more is sent, even if the client left before the first
    event was asked for.
    """

    def __init__(self, events: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        super().__init__(events, sep="\n", ping=PING_SECONDS, ping_message_factory=_keep_alive)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one response."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


def _keep_alive() -> ServerSentEvent:
    return ServerSentEvent(comment="keep-alive", sep="\n")
