"""A person at a terminal: keys go in, and what is on the screen can be looked at."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

CHAT = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "from server.cli import main; sys.exit(main(sys.argv[1:]))"
)
"""A terminal becomes the one that controls a new session when the session takes it."""

SEQUENCE = re.compile(r"\x1b(?:\[([?0-9;]*)([@-~])|([78D]))")


class Display:
    """As much of a terminal as is needed: a grid with a scroll region, and what scrolled off its top.

    Anything else than the sequences it knows fails: nothing the model says may reach it as one.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.height = columns, rows
        self.scrolled: list[list[tuple[str, str]]] = []
        self.grid = [self._blank() for _ in range(rows)]
        self.row = self.column = 0
        self._saved = (0, 0, "")
        self._bottom = rows
        self._style = ""
        self._rest = ""

    @property
    def lines(self) -> list[str]:
        """Everything above the last row, from the first line on."""
        return [self._text(row) for row in (*self.scrolled, *self.grid[:-1])]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip()

    @property
    def status(self) -> str:
        return self._text(self.grid[-1])

    def style(self, word: str) -> str:
        """How the last appearance of ``word`` above the last row is drawn; one style for all of it."""
        for row in reversed((*self.scrolled, *self.grid[:-1])):
            at = "".join(character for character, _ in row).rfind(word)
            if at >= 0:
                (style,) = {style for _, style in row[at : at + len(word)]}
                return style
        raise AssertionError(f"{word} is not on the screen:\n{self.text}")

    def resize(self, columns: int, rows: int) -> None:
        """Rows are cut or filled up; the last ones stay when there are fewer."""
        self.grid = [(row + self._blank(columns))[:columns] for row in self.grid]
        while len(self.grid) > rows:
            self.scrolled.append(self.grid.pop(0))
            self.row = max(self.row - 1, 0)
        self.grid += [self._blank(columns) for _ in range(rows - len(self.grid))]
        self.columns, self.height, self._bottom = columns, rows, rows
        self.column = min(self.column, columns - 1)

    def feed(self, text: str) -> None:
        text = self._rest + text
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = SEQUENCE.match(text, at)
                if found is None:
                    break
                self._obey(found)
                at = found.end()
            else:
                self._show(text[at])
                at += 1
        self._rest = text[at:]
        assert len(self._rest) < 16, f"no sequence: {self._rest!r}"

    def _show(self, character: str) -> None:
        if character == "\n":
            self._down()
        elif character == "\r":
            self.column = 0
        else:
            assert character.isprintable() or character in "\u200c\u200d", f"control character {character!r}"
            wide = 2 if unicodedata.east_asian_width(character) in "WF" else 1
            if unicodedata.category(character) in ("Mn", "Me", "Cf"):
                character, self.column, wide = self._under() + character, max(self.column - 1, 0), 1
            if self.column + wide > self.columns:
                self.column = 0
                self._down()
            cells = [(character, self._style)] + [("", self._style)] * (wide - 1)
            self.grid[self.row][self.column : self.column + wide] = cells
            self.column += wide

    def _obey(self, found: re.Match[str]) -> None:
        parameters, final = found[1] or "", found[2] or found[3]
        numbers = [int(number) for number in parameters.split(";") if number.isdigit()]
        first = numbers[0] if numbers else 1
        match final:
            case "m":
                self._style = "" if parameters in ("", "0") else parameters
            case "7":
                self._saved = (self.row, self.column, self._style)
            case "8":
                self.row, self.column, self._style = self._saved
            case "r":
                self._bottom, self.row, self.column = numbers[1] if numbers else self.height, 0, 0
            case "D" if found[3]:
                column = self.column
                self._down()
                self.column = column
            case "A":
                self.row = max(self.row - first, 0)
            case "C":
                self.column += first
            case "D":
                self.column -= first
                assert self.column >= 0
            case "H":
                self.row, self.column = min(first, self.height) - 1, 0
            case "K":
                self.grid[self.row][self.column :] = [(" ", self._style)] * (self.columns - self.column)
            case "J":
                self.grid[self.row][self.column :] = self._blank()[self.column :]
                self.grid[self.row + 1 :] = [self._blank() for _ in self.grid[self.row + 1 :]]
            case "h" | "l":
                assert parameters == "?2004"
            case _:
                raise AssertionError(f"unknown sequence {found[0]!r}")

    def _down(self) -> None:
        if self.row == self._bottom - 1:
            self.scrolled.append(self.grid.pop(0))
            self.grid.insert(self._bottom - 1, self._blank())
        elif self.row < self.height - 1:
            self.row += 1

    def _under(self) -> str:
        return self.grid[self.row][self.column - 1][0]

    def _blank(self, columns: int | None = None) -> list[tuple[str, str]]:
        return [(" ", "")] * (columns or self.columns)

    @staticmethod
    def _text(row: list[tuple[str, str]]) -> str:
        return "".join(character for character, _ in row).rstrip()


class Person:
    """Somebody at a terminal in which ``command`` runs."""

    def __init__(self, command: list[str], columns: int, rows: int, **environment: str) -> None:
        self.display = Display(columns, rows)
        self.raw = b""
        self._master, self.slave = pty.openpty()
        self._size(columns, rows)
        self.modes = termios.tcgetattr(self.slave)
        plain = {
            name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "GENARM_API_KEY")
        }
        self.process = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            env={**plain, "TERM": "xterm", "PYTHONUTF8": "1", **environment},
        )

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        """Reads along until ``condition`` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain; on the screen:\n{self.shown}"
            self._read(0.02)

    def see(self, text: str) -> None:
        """``text`` comes to the screen."""
        self.until(lambda: text in self.shown)

    @property
    def shown(self) -> str:
        return f"{self.display.text}\n{self.display.status}"

    def resize(self, columns: int, rows: int) -> None:
        """The window has another size, and the program knows."""
        written = len(self.raw)
        self.display.resize(columns, rows)
        self._size(columns, rows)  # which sends SIGWINCH
        self.until(lambda: b"\x1b[r" in self.raw[written:])

    def leaves(self) -> int:
        """The exit code, once the program has ended; what it wrote last is on the screen."""
        self.until(lambda: self.process.poll() is not None)
        self._read(0.1)
        return self.process.returncode

    def hang_up(self) -> None:
        os.close(self._master)
        self._master = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        for descriptor in (self._master, self.slave):
            if descriptor >= 0:
                os.close(descriptor)

    def _read(self, seconds: float) -> None:
        while select.select([self._master], [], [], seconds)[0]:
            data = os.read(self._master, 65536)
            whole = self.raw + data
            before = self.raw.decode("utf-8", "ignore")
            self.raw = whole
            self.display.feed(whole.decode("utf-8", "ignore")[len(before) :])
            seconds = 0.0

    def _size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@pytest.fixture
def sit_down() -> Iterator[Callable[..., Person]]:
    """``sit_down("--url", …, columns=120, rows=24, NO_COLOR="1")``: somebody who has typed ``genarm chat …``;
    ``command=[…]`` runs something else.
    """
    people: list[Person] = []

    def start(
        *options: str,
        columns: int = 120,
        rows: int = 24,
        command: list[str] | None = None,
        **environment: str,
    ) -> Person:
        command = command or [sys.executable, "-c", CHAT, "chat", *options]
        people.append(Person(command, columns, rows, **environment))
        return people[-1]

    yield start
    for person in people:
        person.close()


@pytest.fixture
def display() -> Callable[[int, int], Display]:
    return Display


class Pretender:
    """A server that says what the test wants, on a port that stays its own while it is away.

    ``answers[method, path]`` is (status, body); a body of a list is the events of a stream, of which bytes are sent
    as they are and None is a connection that breaks.
    """

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {
            ("GET", "/v1/models"): (200, {"object": "list", "data": [{"id": "some"}, {"id": "some:kind"}]}),
            ("GET", "/v1/preferences"): (200, self.preferences(helpful=0.5)),
        }
        self.heard: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    @staticmethod
    def preferences(**defaults: float) -> dict[str, Any]:
        data = [{"name": name, "default": value, "range": [0.0, 1.0]} for name, value in defaults.items()]
        return {"object": "list", "data": data, "methods": [], "presets": {"kind": {"helpful": 0.25}}}

    @staticmethod
    def piece(text: str, finish_reason: str | None = None, **extra: Any) -> dict[str, Any]:
        """One chunk; ``tokens`` as in a choice's ``guidance``, the rest at the top."""
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
        if "tokens" in extra:
            choice["guidance"] = {"tokens": extra.pop("tokens")}
        return {"id": "chatcmpl-1", "choices": [choice], **extra}

    def says(self, *events: Any) -> None:
        """The next answers are these events and then [DONE], unless the last is None or an error."""
        done = [] if events[-1] is None or "error" in events[-1] else ["[DONE]"]
        self.answers["POST", "/v1/chat/completions"] = 200, [*events, *done]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def come(self) -> None:
        pretender = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _answer(self) -> None:
                size = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(size)) if size else None
                pretender.heard.append((self.command, self.path, body))
                pretender.headers.append({name.lower(): value for name, value in self.headers.items()})
                status, said = pretender.answers.get(
                    (self.command, self.path), (404, {"error": {"message": "no such thing"}})
                )
                self.send_response(status)
                self.send_header("connection", "close")
                self.end_headers()
                for event in said if isinstance(said, list) else ():
                    if isinstance(event, bytes):
                        self.wfile.write(event)
                    elif event is not None:
                        data = event if isinstance(event, str) else json.dumps(event)
                        self.wfile.write(f"data: {data}\n\n".encode())
                if not isinstance(said, list):
                    self.wfile.write(said.encode() if isinstance(said, str) else json.dumps(said).encode())
                self.close_connection = True

            do_GET = do_POST = do_PATCH = do_DELETE = _answer

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def go(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def pretender() -> Iterator[Pretender]:
    """A server of canned answers, already there."""
    server = Pretender()
    server.come()
    yield server
    server.go()
