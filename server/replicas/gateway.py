"""What a request meets first: it goes to a replica whole, and the answer comes back as it is made.

Whoever has no key, whoever sends too much and whoever names an id that leads nowhere is refused by a replica, in its words and in
its log: a gateway has no answers of its own but for what became of replicas.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Protocol
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from server.access import KeyRing
from server.api.middleware import OPEN_PATHS, bearer
from server.errors import ApiError, QueueFull, Unavailable
from server.metrics import CONTENT_TYPE
from server.replicas import exposition
from server.replicas.affinity import SESSION_HEADER, likeness
from server.replicas.crowd import Crowds
from server.replicas.errand import Errand, Gone
from server.replicas.exchange import Head, head_of
from server.replicas.ticket import Tickets

LOG = logging.getLogger("genarm")

PROBE_SECONDS = 5.0
"""How long a probe waits for a replica that is there."""

_RUNNING = re.compile(r"/v1/(?:chat/completions|completions|responses)/([^/]+)(?:/.*)?")
"""Paths of a request under way, by its id."""

_REQUEST_ID = "x-request-id"

_EVENTS = b"text/event-stream"

_LAST = re.compile(
    rb"(?:^|\n\n)(?:data: \[DONE\]|data: \{\"error\":.*|event: response\.(?:completed|incomplete|failed)\n.*)\n\n\Z"
)
"""What a stream's last event is like: behind it nothing more is said, whatever becomes of the replica."""


class Lost(Exception):
    """The replica ended, or could not be reached, before its answer was whole."""


class Broken(Exception):
    """An answer that has begun cannot be ended well: its client has to see that it is not whole."""


class Full(Exception):
    """More requests wait for a replica than may."""


class Replicas(Protocol):
    """The replicas, as a gateway reaches them."""

    def stream(self, errand: Errand, head: Head, body: bytes) -> AsyncGenerator[list[Message]]:
        """One replica's answer as it comes, in the order of ASGI. Closing it cancels the request.

        Raises:
            Gone: the replica that it has to be is no more, or the one that it came to takes nothing any more; none has begun.
            Full: too many wait.
            Lost: it ended in the middle.
        """

    async def all(self, head: Head) -> Mapping[str, Sequence[Message]]:
        """The answers of all of them, whole, by name. Raises Lost where there is none."""


class Gateway:
    """An ASGI app in front of the ``replicas`` of one deployment.

    Args:
        keys: who is let in; others' bodies are not read.
        max_body: bytes; of a longer body no more is read.
        tickets: reads ids of requests under way.
        crowds: which requests are alike enough to go to one replica.
    """

    def __init__(
        self, keys: KeyRing, max_body: int, tickets: Tickets, replicas: Replicas, crowds: Crowds
    ) -> None:
        self._keys = keys
        self._max_body = max_body
        self._tickets = tickets
        self._replicas = replicas
        self._crowds = crowds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # there are none
            return
        headers = Headers(scope=scope)
        caller = self._keys.caller(bearer(headers))
        body: bytes | None = b""
        if caller is not None:
            body = await self._body(headers, receive)
        if body is None:
            return  # left while its body was being read: nobody to answer
        head = head_of(scope)
        try:
            if scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD"):
                await self._metrics(head, scope, receive, send)
                return
            owner = "" if caller is None else caller.owner
            patience = PROBE_SECONDS if scope["path"] in OPEN_PATHS else None
            with self._errand(scope["path"], headers, owner, body) as errand:
                await self._deliver(errand, head, body, send, patience)
        except Full:
            await _answer(QueueFull("The queue is full; try again later.", retry_after=1))(
                scope, receive, send
            )
        except Lost as error:
            LOG.warning("request %s: %s", headers.get(_REQUEST_ID), error)
            await _answer(_lost())(scope, receive, send)

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """The body; of one that is too long, enough for a replica to see that. None when the client has left."""
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and declared.isascii() and int(declared[:18]) > self._max_body:
            return b""
        parts, size, more = list[bytes](), 0, True
        while more and size <= self._max_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
        return b"".join(parts)

    @contextmanager
    def _errand(self, path: str, headers: Headers, owner: str, body: bytes) -> Iterator[Errand]:
        """Where a request is to go, which is under way inside."""
        running = _RUNNING.fullmatch(path)
        if running is not None:
            # By its own name where it leads nowhere, not where least is under way: how long it takes says nothing of it either.
            yield Errand(running[1], self._tickets.replica(running[1]))
            return
        with self._crowds.joined(likeness(path, headers.get(SESSION_HEADER), owner, body)) as key:
            yield Errand(key)

    async def _deliver(
        self, errand: Errand, head: Head, body: bytes, send: Send, patience: float | None
    ) -> None:
        """To the replica that it has to be, else to one that takes it. Raises as ``_forward``, but for Gone."""
        while True:
            try:
                await self._forward(errand, head, body, send, patience)
            except Gone as gone:
                # Any other replica says of an id what it says of all that it does not know.
                errand = Errand(errand.key, shunned=errand.shunned | {gone.name})
            else:
                return

    async def _forward(
        self, errand: Errand, head: Head, body: bytes, send: Send, patience: float | None
    ) -> None:
        """Sends one replica's answer on; ``patience``: seconds until its head has to come.

        Raises:
            Gone, Full, Lost: nothing was sent.
            Broken: a part of it was.
        """
        answer = _Answer(head["path"], send)
        async with aclosing(self._replicas.stream(errand, head, body)) as batches:
            try:
                async with asyncio.timeout(patience) as waiting:
                    async for batch in batches:
                        waiting.reschedule(None)
                        for message in batch:
                            await answer.pass_on(message)
            except TimeoutError:
                raise Lost("no replica answers") from None
            except Lost as error:
                if not answer.begun:
                    raise
                LOG.warning("request %s broke off: %s", answer.request_id, error)
                await answer.break_off(error)

    async def _metrics(self, head: Head, scope: Scope, receive: Receive, send: Send) -> None:
        """All replicas' metrics, with ``?replica=all`` added up, as far as they tell them to this client."""
        asked = parse_qs(scope["query_string"].decode("latin-1")).get(exposition.LABEL)
        answers = await self._replicas.all({**head, "method": "GET", "query_string": b""})
        texts: dict[str, str] = {}
        for name, messages in answers.items():
            start, *rest = messages
            if start["status"] != 200:
                refusal = _Answer(head["path"], send)
                for message in messages:
                    await refusal.pass_on(message)
                return
            texts[name] = b"".join(message.get("body", b"") for message in rest).decode()
        together = exposition.summed if asked == ["all"] else exposition.labelled
        response = Response(together(texts), media_type=CONTENT_TYPE)
        await response(scope, receive, send)


class _Answer:
    """What has been sent of the answer to a request for ``path``."""

    def __init__(self, path: str, send: Send) -> None:
        self.begun = False
        self.request_id: str | None = None
        self._path = path
        self._send = send
        self._is_stream = False
        self._events = 0
        self._is_told = False  # all there is to say

    async def pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            self.request_id = headers.get(_REQUEST_ID)
            # Serve's proxy adds its own, which the replica was told and took, if it is sane.
            del headers[_REQUEST_ID]
            self._is_stream = headers.get("content-type", "").encode().startswith(_EVENTS)
        elif self._is_stream:
            said = message.get("body", b"")
            self._events += said.count(b"\ndata: {")
            self._is_told = self._is_told or _LAST.search(said) is not None
        await self._send(message)

    async def break_off(self, error: Lost) -> None:
        """Ends a stream with an error as its last event. What is no stream cannot say that it is not whole: it just ends, and the
        connection with it.
        """
        if not self._is_stream:
            raise Broken from error
        if self._is_told:
            event = b""
        elif self._path == "/v1/responses":
            fields = {"type": "error", "code": "server_error", "message": _lost().message, "param": None}
            event = b"event: error\ndata: " + _json({**fields, "sequence_number": self._events}) + b"\n\n"
        else:
            event = b"data: " + _json(_lost().body()) + b"\n\n"
        await self._send({"type": "http.response.body", "body": event, "more_body": False})


def _lost() -> Unavailable:
    return Unavailable("The replica failed; the request is lost.", code="engine_dead", retry_after=5)


def _answer(error: ApiError) -> Response:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
