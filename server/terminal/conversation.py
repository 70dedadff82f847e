"""A conversation with somebody at a terminal."""

from __future__ import annotations

import contextlib

from server.terminal import slash
from server.terminal.answering import Answering, Gone
from server.terminal.cells import harmless, one_line
from server.terminal.editor import Editor
from server.terminal.keymap import move
from server.terminal.keys import Key
from server.terminal.screen import Screen
from server.terminal.service import Service, ServiceError
from server.terminal.talk import Talk
from server.terminal.tint import Palette
from server.terminal.weights import described

PROMPT = "> "
HINT = "/help"


class Conversation:
    """Prompts and answers in turn until somebody leaves."""

    def __init__(self, service: Service, talk: Talk, screen: Screen, palette: Palette) -> None:
        self._service = service
        self._talk = talk
        self._screen = screen
        self._palette = palette
        self._editor = Editor()
        self._hint = HINT

    async def run(self) -> None:
        """Talks until Ctrl-D, a second Ctrl-C or /quit, or until the terminal is gone."""
        with self._screen.listening(), contextlib.suppress(Gone):
            self._screen.line(
                f"{self._service.url}, {one_line(self._talk.model)}. /help lists commands and keys.",
                self._palette.notice,
            )
            while (line := await self._read()) is not None:
                if not line.strip():
                    continue
                if not slash.is_command(line):
                    await self._turn(line)
                    continue
                reply = slash.obey(line, self._talk, keys=True)
                for text in reply.lines:
                    self._screen.line(text, self._palette.notice)
                if reply.leave:
                    return

    async def _read(self) -> str | None:
        """The next line; None when somebody leaves."""
        self._draw()
        self._screen.redraw = self._draw
        warned = False
        while True:
            key = await self._screen.keys.get()
            if key.name == "closed":
                raise Gone
            if key.name == "ctrl-d" and not self._editor.text:
                self._screen.erase()
                return None
            if key.name == "ctrl-c":
                if warned:
                    self._screen.erase()
                    return None
                warned = not self._editor.text
                self._editor.put("")
                self._hint = "Ctrl-C again or Ctrl-D leaves" if warned else HINT
            elif key.name == "enter":
                self._hint = HINT
                return self._enter()
            else:
                warned, self._hint = False, HINT
                self._press(key)
            self._draw()

    def _press(self, key: Key) -> None:
        if key.name == "ctrl-z":
            self._screen.suspend()
        elif key.name == "ctrl-l":
            self._screen.clear()
        elif self._editor.text or not move(self._talk.weights, key):
            self._editor.press(key)

    def _enter(self) -> str:
        line = self._editor.take()
        self._screen.erase()
        self._screen.line(PROMPT + harmless(line), self._palette.said)
        return line

    def _draw(self) -> None:
        """The prompt and the status row, as they are between answers."""
        room = max(self._screen.columns - len(PROMPT) - 1, 1)
        self._screen.edit(PROMPT, *self._editor.view(room))
        self._screen.status(" ".join([described(self._talk.weights), " ", self._hint]))

    async def _turn(self, line: str) -> None:
        """One answer; what got none is there to be sent again."""
        answering = Answering(self._service, self._talk, self._screen, self._palette)
        try:
            answered = await answering.run(slash.message(line))
        except ServiceError as error:
            answered = False
            self._complain(error)
        if not answered:
            self._editor.put(line)

    def _complain(self, error: ServiceError) -> None:
        full = getattr(error, "code", None) == "context_length_exceeded"
        self._screen.line(f"{error}{' /new starts a new conversation.' if full else ''}", self._palette.error)
