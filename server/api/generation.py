"""One request under way, seen from the event loop: its choices' tokens come in from the engine, text goes out
to whoever reads.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from server.api.choice import Choice, Piece
from server.decoding import Guidance
from server.decoding.search import Execution
from server.errors import ApiError

if TYPE_CHECKING:
    from server.api.request_log import Record
    from server.engine import TokenOutput


@dataclass(frozen=True, slots=True)
class Change:
    """Guidance that holds from token ``at_token`` on: of each choice in ``choices`` (index → token) from its
    own, ``at_token`` being the largest.
    """

    guidance: Guidance
    choices: Mapping[int, int]

    @property
    def at_token(self) -> int:
        """The token from which on it holds for every choice."""
        return max(self.choices.values())


@dataclass(frozen=True)
class Ticket:
    """What is known about a request before its first token.

    ``kind`` is the object it answers with, ``owner`` the digest of the caller's key ("" without keys),
    ``prompts`` what the base reads, ``arrived`` and ``prepared`` the ``time.monotonic()`` at which it came in and at
    which its prompts were there as tokens, ``record`` what is noted of the HTTP request.
    """

    id: str
    kind: str
    request_id: str
    owner: str
    model: str
    guidance: Guidance
    prompts: Sequence[Sequence[int]]
    streamed: bool
    arrived: float
    record: Record
    prepared: float = field(default_factory=time.monotonic)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once however many choices it has."""
        return sum(len(prompt) for prompt in self.prompts)


class Generation:
    """The life of one request. Used from the event loop only; whoever changes its guidance holds ``changing``.

    ``searches``: of each choice that is searched for, by its index, the search. ``begun``: whether the engine has told anything
    of it. ``unread``: bytes, about, of what whoever reads has not taken. ``is_cut``: set when that reader is to be left at once.
    """

    def __init__(self, ticket: Ticket, choices: Sequence[Choice]) -> None:
        self.ticket = ticket
        self.choices = tuple(choices)
        self.changes: list[Change] = []
        self.changing = asyncio.Lock()
        self.error: ApiError | None = None
        self.cancelled = False
        self.searches: dict[int, Execution] = {}
        self.begun = False
        self.unread = 0
        self.is_cut = asyncio.Event()
        self._pieces: deque[tuple[Piece, int]] = deque()
        self._news = asyncio.Event()
        self._listening = False

    @property
    def tokens(self) -> int:
        """Tokens of all choices so far."""
        return sum(choice.tokens for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the base's prompts that were not read again because an earlier request had them."""
        return sum(choice.cached_tokens for choice in self.choices)

    @property
    def accepted_drafts(self) -> int:
        """Tokens so far that the engine had guessed ahead."""
        return sum(choice.accepted_drafts for choice in self.choices)

    @property
    def rejected_drafts(self) -> int:
        """Tokens that the engine guessed ahead and that did not come."""
        return sum(choice.rejected_drafts for choice in self.choices)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.error is not None or all(choice.finish_reason is not None for choice in self.choices)

    @property
    def guidance(self) -> Guidance:
        """The guidance in force now."""
        return self.changes[-1].guidance if self.changes else self.ticket.guidance

    @property
    def first_token(self) -> float | None:
        """When the first token of any choice came, on ``time.monotonic()``'s clock."""
        return min((one.first_token for one in self.choices if one.first_token is not None), default=None)

    @property
    def stalled(self) -> bool:
        """Whether whoever reads is busy with something that came before, so that what is unread can only grow."""
        return not self._listening

    def push(self, choice: Choice, output: TokenOutput) -> None:
        """Takes a token of one of the choices from the engine."""
        if not self.ended:
            self._say(choice.push(output))

    def note(self, choice: Choice, text: str) -> None:
        """Tells whoever reads a stream where the search for a choice stands."""
        if self.ticket.streamed and not self.ended:
            self._say([Piece(choice.index, "", (), note=text)])

    def cancel(self) -> None:
        """Ends every choice that is not over with what it has."""
        if not self.ended:
            self.cancelled = True
            self._say(piece for choice in self.choices for piece in choice.finish("stop"))

    def fail(self, error: ApiError) -> None:
        """Ends all choices with one error; what was said stays said."""
        if not self.ended:
            self.error = error
            self._news.set()

    def cut(self, error: ApiError) -> None:
        """Ends all choices with an error that nobody is told: who does not read is left, and what is unread dropped."""
        self.fail(error)
        self._pieces.clear()
        self.unread = 0
        self.is_cut.set()

    async def pieces(self) -> AsyncGenerator[Piece]:
        """What the choices say as it comes, once; each choice's last piece has its finish_reason.

        Raises:
            ApiError: the request failed, after the pieces that came before.
        """
        while True:
            while self._pieces:
                piece, size = self._pieces.popleft()
                self.unread -= size
                yield piece
            if self.ended:
                break
            self._news.clear()
            self._listening = True
            try:
                await self._news.wait()
            finally:
                self._listening = False
        if self.error is not None:
            raise self.error

    def _say(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            size = piece.size
            self._pieces.append((piece, size))
            self.unread += size
        if self._pieces:
            self._news.set()
