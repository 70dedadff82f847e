"""The terminal while it is ours: keys one by one, text that flows, a status row under it; and given back whole.

The status row is the terminal's last: the rows above it are made the scroll region, so that text scrolls into the
terminal's history as it always does.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
import os
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from server.terminal.cells import cut, width
from server.terminal.flow import PLAIN, Flow
from server.terminal.keys import CLOSED, Key, KeyReader

ESCAPE_SECONDS = 0.1
"""How long an Escape may be the beginning of an arrow key; over a slow line the pieces come apart."""

FEWEST_ROWS = 4
"""With fewer there is no status row."""

DEADLY = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
SAVE, RESTORE = "\x1b7", "\x1b8"


def is_terminal() -> bool:
    """Whether a person sits at both ends, at a terminal that can move its cursor."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


class Screen:
    """The terminal on standard input and output.

    ``keys`` are those pressed. ``redraw`` is called when the terminal was resized or came back from the background,
    with the cursor at the start of an empty row or in the text.
    """

    def __init__(self) -> None:
        self.keys: asyncio.Queue[Key] = asyncio.Queue()
        self.redraw: Callable[[], None] = lambda: None
        self._input, self._output = sys.stdin.fileno(), sys.stdout.fileno()
        self._encoding = sys.stdout.encoding or "utf-8"
        self._decoder = codecs.getincrementaldecoder(self._encoding)("replace")
        self._reader = KeyReader()
        self._before = termios.tcgetattr(self._input)
        self._status = ""
        self.columns, self._rows = 80, 24
        self._flow = Flow(self.columns - 1)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """The terminal is ours; on any way out, a deadly signal's too, it is again as it was."""
        handlers = {number: signal.signal(number, _die) for number in DEADLY}
        try:
            self._take()
            yield
        finally:
            # A second signal must not come between; writing may hang on a dead line, and then it may end us.
            for number in DEADLY:
                signal.signal(number, signal.SIG_IGN)
            self._give_back_modes()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self._give_back_screen()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Keys and signals arrive in the running event loop."""
        loop = asyncio.get_running_loop()
        pressed: dict[int, Callable[[], None]] = {
            signal.SIGINT: lambda: self.keys.put_nowait(Key("ctrl-c")),
            signal.SIGTSTP: self.suspend,
            signal.SIGCONT: self._came_back,
            signal.SIGWINCH: self._came_back,
        }
        for number, handler in pressed.items():
            loop.add_signal_handler(number, handler)
        loop.add_reader(self._input, self._read)
        self._take()  # it may have been resized before anybody listened
        try:
            yield
        finally:
            loop.remove_reader(self._input)
            for number in pressed:
                loop.remove_signal_handler(number)

    def say(self, text: str, style: str = PLAIN) -> None:
        """Harmless ``text`` goes on where the text ends."""
        self._write(self._flow.push(text, style))

    def line(self, text: str = "", style: str = PLAIN) -> None:
        """Harmless ``text`` on a row of its own."""
        start = "\n" if self._flow.column else ""
        self._write(self._flow.push(f"{start}{text}\n", style))

    def edit(self, prompt: str, text: str, cursor: int) -> None:
        """The row that the cursor is in shows ``prompt`` and harmless ``text``, which fit; the cursor is in its
        cell ``cursor``.
        """
        column = width(prompt) + cursor
        self._flow.at_start()
        self._write(f"\r\x1b[K{prompt}{text}\r" + (f"\x1b[{column}C" if column else ""))

    def erase(self) -> None:
        """The row that the cursor is in is empty."""
        self._flow.at_start()
        self._write("\r\x1b[K")

    def clear(self) -> None:
        """The whole screen is empty."""
        self._flow.at_start()
        self._write("\x1b[H\x1b[J")
        self.status(self._status)

    def status(self, text: str) -> None:
        """The status row shows harmless ``text``, as much as fits."""
        self._status = text
        if self._rows < FEWEST_ROWS:
            return
        shown = cut(text, self.columns - 1)
        self._write(f"{SAVE}\x1b[{self._rows};1H\x1b[0;7m{shown}\x1b[0;7m\x1b[K\x1b[0m{RESTORE}")

    def suspend(self) -> None:
        """The shell's again, until it brings us back to the foreground."""
        self._give_back_modes()
        self._give_back_screen()
        loop = asyncio.get_running_loop()
        loop.remove_signal_handler(signal.SIGTSTP)
        try:
            os.killpg(0, signal.SIGTSTP)  # the whole job, as the terminal itself would
        finally:
            loop.add_signal_handler(signal.SIGTSTP, self.suspend)
        self._came_back()

    def _came_back(self) -> None:
        self._take()
        self.redraw()

    def _take(self) -> None:
        """Makes it ours; again where it is already, but the size has changed or somebody else its modes."""
        modes = termios.tcgetattr(self._input)
        modes[0] &= ~(termios.IXON | termios.ICRNL | termios.INLCR | termios.IGNCR | termios.ISTRIP)
        modes[1] |= termios.OPOST | termios.ONLCR
        modes[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._input, termios.TCSANOW, modes)
        try:
            self.columns, self._rows = os.get_terminal_size(self._output)
        except OSError:
            self.columns = self._rows = 0
        self.columns, self._rows = self.columns or 80, self._rows or 24
        self._flow.resized(self.columns)
        # A row below the cursor is made first, so that the text is above the status row; then the region ends there.
        region = f"\x1bD\x1b[A{SAVE}\x1b[1;{self._rows - 1}r{RESTORE}" if self._rows >= FEWEST_ROWS else ""
        self._write(f"\x1b[?2004h{SAVE}\x1b[r{RESTORE}\x1b[J{region}")
        self.status(self._status)

    def _give_back_modes(self) -> None:
        # Setting modes stops a process in the background; this must happen all the same.
        ignored = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        try:
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._input, termios.TCSANOW, self._before)
        finally:
            signal.signal(signal.SIGTTOU, ignored)

    def _give_back_screen(self) -> None:
        end = "\n" if self._flow.column else ""
        with contextlib.suppress(OSError):
            self._write(f"\x1b[0m\x1b[?2004l{SAVE}\x1b[r{RESTORE}{end}\r\x1b[J")
        self._flow.at_start()

    def _read(self) -> None:
        try:
            data = os.read(self._input, 4096)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._input)
            self.keys.put_nowait(CLOSED)
            return
        self._press(self._reader.feed(self._decoder.decode(data)))
        if self._reader.undecided:
            begun = self._reader.progress
            asyncio.get_running_loop().call_later(ESCAPE_SECONDS, self._settle, begun)

    def _settle(self, begun: int) -> None:
        if self._reader.progress == begun:
            self._press(self._reader.settle())

    def _press(self, keys: list[Key]) -> None:
        for key in keys:
            self.keys.put_nowait(key)

    def _write(self, text: str) -> None:
        data = text.encode(self._encoding, "replace")
        while data:
            data = data[os.write(self._output, data) :]


def _die(number: int, _: FrameType | None) -> NoReturn:
    # It is raised in whatever runs now, often a task, which asyncio would then report as one that nobody waited for.
    logging.getLogger("asyncio").disabled = True
    raise SystemExit(128 + number)
