"""One answer under way, seen from the event loop: tokens come in from the engine, text goes out to whoever
reads.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from server.decoding import Guidance
from server.errors import ApiError
from server.text import Detokenizer, StopStrings

if TYPE_CHECKING:
    from server.engine import TokenOutput

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of an answer, and how many tokens the answer has with it."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Change:
    """Guidance that holds from token ``at_token`` of the answer on."""

    at_token: int
    guidance: Guidance


@dataclass(frozen=True)
class Ticket:
    """What is known about a request before its first token.

    ``owner`` is the digest of the caller's key, "" without keys.
    """

    id: str
    request_id: str
    owner: str
    model: str
    guidance: Guidance
    prompt_tokens: int
    stops: Sequence[str]
    streamed: bool
    arrived: float  # time.monotonic() when the request came in
    created: int = field(default_factory=lambda: int(time.time()))


class Generation:
    """The life of one answer. Used from the event loop only; whoever changes its guidance holds ``changing``."""

    def __init__(self, ticket: Ticket, detokenizer: Detokenizer) -> None:
        self.ticket = ticket
        self.tokens = 0
        self.changes: list[Change] = []
        self.changing = asyncio.Lock()
        self.finish_reason: FinishReason | None = None
        self.error: ApiError | None = None
        self.cancelled = False
        self.first_token: float | None = None
        self.last_token: float | None = None
        self._detokenizer = detokenizer
        self._stops = StopStrings(ticket.stops)
        self._pieces: deque[Piece] = deque()
        self._news = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None or self.error is not None

    @property
    def guidance(self) -> Guidance:
        """The guidance in force now."""
        return self.changes[-1].guidance if self.changes else self.ticket.guidance

    def push(self, output: TokenOutput) -> None:
        """Takes a token from the engine.

        A complete stop string ends the answer here, whatever the engine goes on to do.
        """
        if self.ended:
            return
        self.tokens += 1
        self.last_token = time.monotonic()
        if self.first_token is None:
            self.first_token = self.last_token
        # The token that stopped the engine (end of text, stop_token_ids) counts but is not shown.
        if output.finish_reason != "stop":
            self._say(self._stops.push(self._detokenizer.push(output.token)))
        if self._stops.hit:
            self.finish("stop")
        elif output.finish_reason in ("stop", "length"):
            self.finish("stop" if output.finish_reason == "stop" else "length")

    def finish(self, reason: FinishReason, *, cancelled: bool = False) -> None:
        """Ends the answer with what is known of its text."""
        if self.ended:
            return
        if not self._stops.hit:
            self._say(self._stops.push(self._detokenizer.flush()))
        if self._stops.hit:
            reason = "stop"
        else:
            self._say(self._stops.flush())
        self.finish_reason, self.cancelled = reason, cancelled
        self._news.set()

    def fail(self, error: ApiError) -> None:
        """Ends the answer with an error; what was said stays said."""
        if not self.ended:
            self.error = error
            self._news.set()

    async def pieces(self) -> AsyncGenerator[Piece]:
        """The text as it comes, once.

        Raises:
            ApiError: the answer failed, after the pieces that came before.
        """
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if self.ended:
                break
            self._news.clear()
            await self._news.wait()
        if self.error is not None:
            raise self.error

    def _say(self, text: str) -> None:
        if text:
            self._pieces.append(Piece(text, self.tokens))
            self._news.set()
