"""One answer as it is written, and what the keys do to it."""

from __future__ import annotations

import asyncio
import contextlib
import time

from server.terminal.cells import harmless, one_line
from server.terminal.keymap import steer
from server.terminal.screen import Screen
from server.terminal.service import Piece, Service, ServiceError
from server.terminal.steering import Change, Steering, Values
from server.terminal.talk import Talk
from server.terminal.tally import Tally
from server.terminal.tint import Palette, runs
from server.terminal.weights import described, difference

STATUS_SECONDS = 0.1
"""How often the figures in the status row change at most."""


class Gone(Exception):
    """There is no terminal any more."""


class Answering:
    """One answer as it is written, and what the keys do to it."""

    def __init__(self, service: Service, talk: Talk, screen: Screen, palette: Palette) -> None:
        self._service = service
        self._talk = talk
        self._screen = screen
        self._palette = palette
        self._id: str | None = None
        self._stopping = False
        self._text: list[str] = []
        self._tally = Tally()
        self._last: Piece | None = None
        self._changes: list[Change] = []
        self._stale = False
        self._steering = Steering(self._change, talk.weights.values, made=self._made, failed=self._failed)
        self._reading: asyncio.Task[None]
        self._beside: list[asyncio.Task[None]] = []

    async def run(self, text: str) -> bool:
        """Shows the answer to ``text`` to its end, or until it is stopped; then both are part of the talk. False when
        it was stopped before its first word.

        Raises:
            ServiceError: there is no whole answer.
            Gone: there is no terminal any more.
        """
        self._screen.redraw = self._status
        self._status()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._reading = tasks.create_task(self._show(text))
                beside = (self._obey(tasks), self._steering.run(), self._refresh())
                self._beside = [tasks.create_task(one) for one in beside]
                self._reading.add_done_callback(lambda _: [one.cancel() for one in self._beside])
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return self._end(text)

    async def _show(self, text: str) -> None:
        async with contextlib.aclosing(self._service.answer(self._talk.body(text))) as pieces:
            async for piece in pieces:
                if self._id is None:
                    self._id = piece.id
                    self._steering.want(self._talk.weights.values)
                self._piece(piece)

    def _piece(self, piece: Piece) -> None:
        self._text.append(piece.text)
        count = 0
        for text, gain, tokens in runs(piece.text, piece.tokens, self._talk.weights.chosen):
            self._mark(self._tally.tokens + count)
            self._screen.say(harmless(text), self._palette.gain(gain))
            count += tokens
        self._tally.add(piece.tokens, count, time.monotonic())
        if piece.finish_reason is not None:
            self._last = piece
        self._stale = True

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            if self._stale:
                self._status()

    async def _obey(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            key = await self._screen.keys.get()
            if key.name == "closed":
                raise Gone
            if key.name in ("escape", "ctrl-c"):
                self._stop(tasks)
            elif key.name == "ctrl-z":
                self._screen.suspend()
            elif key.name == "ctrl-l":
                self._screen.clear()
            elif steer(self._talk.weights, key) and self._id is not None:
                self._steering.want(self._talk.weights.values)
            self._status()

    def _stop(self, tasks: asyncio.TaskGroup) -> None:
        """Asks the server to end the answer; asked twice, or with nothing to ask for, just hangs up."""
        if self._stopping or self._id is None:
            self._reading.cancel()
        else:
            self._beside.append(tasks.create_task(self._cancel(self._id)))
        self._stopping = True

    async def _cancel(self, id: str) -> None:
        try:
            await self._service.cancel(id)
        except ServiceError:
            self._reading.cancel()

    async def _change(self, values: Values) -> int:
        assert self._id is not None, "nothing is wanted before the answer has an id"
        return await self._service.change(self._id, values)

    def _made(self, change: Change) -> None:
        self._changes.append(change)
        if change.at_token < self._tally.tokens:
            self._mark(self._tally.tokens)
        self._status()

    def _failed(self, error: ServiceError) -> None:
        self._talk.weights.replace(self._steering.held)
        self._screen.say(f" ⟨{error}⟩ ", self._palette.error)
        self._status()

    def _mark(self, token: int) -> None:
        """Shows the changes that hold for ``token``, which comes next."""
        while self._changes and self._changes[0].at_token <= token:
            change = self._changes.pop(0)
            late = token - change.at_token
            since = f", {late} token{'' if late == 1 else 's'} ago" if late else ""
            self._screen.say(
                f"⟨{one_line(difference(change.before, change.after))}{since}⟩", self._palette.mark
            )

    def _status(self) -> None:
        self._stale = False
        words = described(self._talk.weights, settled=self._id is None or self._steering.settled)
        figures = "waiting" if self._id is None else ", ".join(self._tally.figures())
        self._screen.status(f"{words}  {figures}  {'stopping' if self._stopping else 'Esc stops'}")

    def _end(self, text: str) -> bool:
        """The figures of the whole; the talk goes on from here, if there was an answer."""
        summary = self._last.summary if self._last else None
        words = self._tally.figures(summary)
        words += [f"seed {self._talk.seed}"] if self._talk.seed is not None else []
        if self._stopping:
            words.append("stopped")
        elif self._last is not None and self._last.finish_reason == "length":
            words.append("cut at the longest length")
        self._screen.line(", ".join(words), self._palette.notice)
        self._screen.line()
        answer = "".join(self._text)
        if self._stopping and not answer:
            return False
        self._talk.said(text, answer)
        return True
