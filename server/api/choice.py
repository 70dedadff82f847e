"""One answer of a request: tokens go in, text comes out, and with it the tokens whose text it completes."""

from __future__ import annotations

import time
from array import array
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from server.api.tally import Tally
from server.text import Detokenizer, StopStrings

if TYPE_CHECKING:
    from server.engine import TokenLogprobs, TokenOutput, TokenReport

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer; ``offset`` is the character of the answer's text at which its text begins."""

    id: int
    offset: int
    logprobs: TokenLogprobs | None
    report: TokenReport | None


PIECE_BYTES = 256
TOKEN_BYTES = 64
"""About what an event takes besides its text, and besides what it tells about each token and each alternative to it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What choice ``index`` adds: text, the tokens whose text is out with it and, in its last piece, why it
    is over. ``note`` says instead where a search stands that has nothing to say yet.
    """

    index: int
    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None = None
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes that it is about to take until it is sent."""
        told = sum(1 + (len(one.logprobs.top) if one.logprobs else 0) for one in self.tokens)
        return PIECE_BYTES + len(self.text) + len(self.note) + TOKEN_BYTES * told


@dataclass(frozen=True)
class Ending:
    """What ends a choice besides its length.

    ``stops`` count once it has ``min_tokens`` tokens. What ended it is in the text if ``shown``; other tokens
    than ``stop_token_ids`` always are.
    """

    stops: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    shown: bool = False


class Choice:
    """The life of one answer; ``sequence_id`` is its name in the engine.

    A token goes out with the piece that completes its text, so that those held back for a character or a stop
    string are nowhere ahead of it; whatever is left goes out with the last piece.
    """

    def __init__(self, sequence_id: str, index: int, detokenizer: Detokenizer, ending: Ending) -> None:
        self.sequence_id = sequence_id
        self.index = index
        self.tokens = 0
        self.tally = Tally()
        self.prompt_logprobs: tuple[TokenLogprobs | None, ...] = ()
        self.cached_tokens = 0
        self.accepted_drafts = 0
        self.rejected_drafts = 0
        self.finish_reason: FinishReason | None = None
        self.first_token: float | None = None
        self.last_token: float | None = None
        self.gaps = array("d")  # seconds from each token to the next
        self.queued: float | None = None  # seconds in the engine's queue, once it is told
        self._detokenizer = detokenizer
        self._ending = ending
        self._stops = StopStrings(ending.stops, shown=ending.shown)
        self._unread: list[Token] = []  # their text is not known yet
        self._read: deque[tuple[Token, int]] = deque()  # not out yet; where their text ends
        self._known = 0  # characters that tokens have made
        self._said = 0  # characters that are out

    def push(self, output: TokenOutput) -> list[Piece]:
        """Takes a token from the engine; what can be said with it.

        A complete stop string ends the choice here, whatever the engine goes on to do.
        """
        if self.finish_reason is not None:
            return []
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = output.prompt_logprobs
        if self.queued is None:
            self.queued = output.queued
        self.cached_tokens = output.cached_tokens
        self.accepted_drafts, self.rejected_drafts = output.accepted_drafts, output.rejected_drafts
        pieces = self._take(output) if output.token >= 0 else []
        if self._stops.hit or output.finish_reason == "stop":
            return pieces + self.finish("stop")
        return pieces + self.finish("length") if output.finish_reason == "length" else pieces

    def finish(self, reason: FinishReason) -> list[Piece]:
        """Ends the choice with what is known of its text; its last pieces."""
        if self.finish_reason is not None:
            return []
        pieces = []
        if not self._stops.hit:
            text = self._free(self._detokenizer.flush())
            reason = "stop" if self._stops.hit else reason
            pieces = self._say(text + self._stops.flush())
        self.finish_reason = reason
        rest = [token for token, _ in self._read] + self._unread
        cut = tuple(replace(token, offset=min(token.offset, self._said)) for token in rest)
        return [*pieces, Piece(self.index, "", cut, reason)]

    def _take(self, output: TokenOutput) -> list[Piece]:
        self.tokens += 1
        before, now = self.last_token, time.monotonic()
        self.last_token = now
        if before is None:
            self.first_token = now
        else:
            self.gaps.append(now - before)
        if output.report is not None:
            self.tally.add(output.report)
        self._unread.append(Token(output.token, self._known, output.logprobs, output.report))
        # The token that stopped the engine (end of text, stop_token_ids) counts but is not shown.
        stopped = output.finish_reason == "stop" and output.token in self._ending.stop_token_ids
        hidden = stopped and not self._ending.shown
        return self._say(self._free("" if hidden else self._detokenizer.push(output.token)))

    def _free(self, text: str) -> str:
        """What may go out now that ``text`` is known."""
        self._known += len(text)
        if not self._detokenizer.waiting:
            self._read.extend((token, self._known) for token in self._unread)
            self._unread.clear()
        return self._stops.push(text, armed=self.tokens >= self._ending.min_tokens)

    def _say(self, text: str) -> list[Piece]:
        if not text:
            return []
        self._said += len(text)
        tokens = []
        while self._read and self._read[0][1] <= self._said:
            tokens.append(self._read.popleft()[0])
        return [Piece(self.index, text, tuple(tokens))]
