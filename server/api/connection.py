"""A client's connection, which a request may end at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

AT_ONCE = 16 * 1024
"""Bytes that are taken from a connection at once. In chunks of one byte they are some 3,000 events, about 20 ms of the loop;
asyncio's own 256 KiB would hold everybody up for 0.3 s.
"""

MOST_UNREAD = 16 << 20
"""Bytes of a request's body that may still come once it is answered. They are dropped, but each chunk costs its parsing; and
who is cut off may lose the answer that it would have read behind all it sends, a 413 for instance.
"""

SEND_SECONDS = 30.0
"""``http.send_seconds`` where the application does not say it."""

SPARE_SECONDS = 1.0
"""What a reader has beyond ``send_seconds``: a stream that ends there says more in the log."""


class Connection(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it; it bounds the headers. ``scope["state"]["abort"]`` closes the connection now, with what is
    not written yet: closing it otherwise waits until that is read.

    A connection ends as well if its client takes nothing of what is written for ``send_seconds`` of the application's state and a
    second, or sends on and on what belongs to a request that is answered.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        with contextlib.suppress(
            AttributeError
        ):  # asyncio's transports of sockets go by it; other loops' may have none
            transport.max_size = AT_ONCE  # type: ignore[attr-defined]
        self._send_seconds: float = self.app_state.get("send_seconds", SEND_SECONDS)
        self._watch: asyncio.TimerHandle | None = None
        self._unread = 0
        self._answered: RequestResponseCycle | None = None
        self.app_state = {**self.app_state, "abort": transport.abort}

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_watch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The client has sent this."""
        if self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
            if self._answered is not self.cycle:  # another request's body than the one counted so far
                self._answered, self._unread = self.cycle, 0
            self._unread += len(data)
            if self._unread > MOST_UNREAD:
                self.transport.abort()
                return
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP; where an answer has begun or gone out there is none to give, and the connection closes."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """More is written than the client has taken."""
        super().pause_writing()
        self._stop_watch()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The client has taken most of it."""
        self._stop_watch()
        super().resume_writing()

    def _watch_reader(self) -> None:
        seconds, unsent = self._send_seconds + SPARE_SECONDS, self.transport.get_write_buffer_size()
        self._watch = self.loop.call_later(seconds, self._check_reader, unsent)

    def _check_reader(self, before: int) -> None:
        """Leaves a client that has taken nothing since ``before`` bytes were to be sent."""
        unsent = self.transport.get_write_buffer_size()
        if unsent < before:
            self._watch_reader()
            return
        logging.getLogger("genarm").warning(
            "a client took nothing of its answer for %g s: closed, with %d bytes not sent",
            self._send_seconds + SPARE_SECONDS,
            unsent,
        )
        self._watch = None
        self.transport.abort()

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None


UVICORN: Mapping[str, Any] = {
    "http": Connection,
    # Otherwise it depends on what is installed who answers an upgrade, and how much is taken from a connection at once: uvloop,
    # which Ray brings, has 250 KiB.
    "ws": "none",
    "loop": "asyncio",
}
"""How uvicorn is told to speak, of ``uvicorn.Config``'s arguments."""
