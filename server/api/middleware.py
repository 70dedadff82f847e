"""What every request passes before a route sees it: an id, where it ends, the host it names, the page it comes from, the key, its
turn, the size of its body.

Plain ASGI, so that streams stay streams.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Collection, Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access import Caller, Hosts, KeyRing
from server.api.turns import Turns
from server.errors import ApiError, BodyTooLarge, InvalidKey, InvalidRequest, clip

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Routes that never need a key; every other one does, the unknown ones included."""

SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""An x-request-id that may be echoed and logged."""


def error_response(error: ApiError) -> JSONResponse:
    """The one way an error becomes an HTTP response."""
    return _ErrorResponse(error)


class _ErrorResponse(JSONResponse):
    """Leaves its error in ``scope["state"]["error"]``, for the request's line in the log."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.body(), status_code=error.status, headers=error.headers)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one response."""
        scope.setdefault("state", {})["error"] = self._error
        await super().__call__(scope, receive, send)


class RequestId:
    """Echoes a sane x-request-id or makes one; it is in ``scope["state"]["request_id"]`` and on every
    response.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            return  # left while its body was being read: nobody to answer
        except Exception:
            logging.getLogger("genarm").exception("request %s failed", request_id)
            if started:
                raise
            error = ApiError(f"The server failed on this request (x-request-id {request_id}).")
            await error_response(error)(scope, receive, send_with_id)


class OneLength:
    """Answers 400 to a request of two lengths, one declared and one in chunks, and closes the connection: a proxy in front may go
    by the other, and what follows be somebody else's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or answers 400."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if "content-length" in headers and "transfer-encoding" in headers:
                response = error_response(
                    InvalidRequest("A request has Content-Length or Transfer-Encoding, not both.")
                )
                response.headers["connection"] = "close"
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)


class HostCheck:
    """Answers 400 to a Host header that ``hosts`` does not accept; supervisors may call a server what they like."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self.app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or answers 400."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            named = Headers(scope=scope).getlist("host")
            if len(named) != 1 or not self._hosts.accepts(named[0]):
                error = InvalidRequest(
                    f"The Host header '{clip(', '.join(named))}' is not accepted here; "
                    "--allowed-host, or http.allowed_hosts of the deployment, names those that are.",
                    code="host_not_allowed",
                )
                await error_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class Cors:
    """Lets pages of the ``origins`` call; to every other one the answers have no CORS header, so no browser shows them."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)
        self._closed = app
        self._open = CORSMiddleware(
            app,
            allow_origins=tuple(origins),
            allow_methods=("GET", "HEAD", "POST", "PATCH", "DELETE"),
            allow_headers=("*",),  # clients of OpenAI's API send many of their own
            expose_headers=("x-request-id", "retry-after"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or answers a preflight."""
        known = scope["type"] == "http" and Headers(scope=scope).get("origin") in self._origins
        await (self._open if known else self._closed)(scope, receive, send)


class ApiKeys:
    """Lets in whoever has a key; without keys, everybody. ``open_paths`` need none, nor do ``OPEN_PATHS``.

    Whoever is let in is ``scope["state"]["caller"]``; ``["owner"]`` tells callers apart without keeping keys.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, open_paths: Iterable[str] = ()) -> None:
        self.app = app
        self._keys = keys
        self._open = OPEN_PATHS.union(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or answers 401."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # there are none
            return
        if scope["type"] == "http":
            caller = self._keys.caller(bearer(Headers(scope=scope)))
            state = scope.setdefault("state", {})
            state["caller"] = Caller() if caller is None else caller
            state["owner"] = state["caller"].owner
            if caller is None and scope["path"] not in self._open:
                error = InvalidKey("Incorrect API key provided: send 'Authorization: Bearer <key>'.")
                await error_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class InTurn:
    """Lets requests begin in turn for each caller, so that nobody waits until all that another has sent have begun."""

    def __init__(self, app: ASGIApp, turns: Turns) -> None:
        self.app = app
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request when it is its turn; supervisors do not wait for one."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        owner = scope["state"]["owner"]

        async def receive_in_turn() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                # Bodies that were held back and then come together are worked on in turn as well.
                await self._turns.wait(owner)
            return message

        await self._turns.wait(owner)
        await self.app(scope, receive_in_turn, send)


class BodyLimit:
    """Answers 413 to a body over ``limit`` bytes, declared or not, without reading it all."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or answers 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isascii() or not declared.isdigit():
            await error_response(InvalidRequest("Content-Length is no number."))(scope, receive, send)
            return
        if len(declared) > 18 or int(declared) > self.limit:
            await error_response(self._error())(scope, receive, send)
            return
        seen = 0

        async def receive_counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise self._error()
            return message

        await self.app(scope, receive_counted, send)

    def _error(self) -> BodyTooLarge:
        return BodyTooLarge(f"The body is larger than {self.limit} bytes.")


def bearer(headers: Headers) -> bytes:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
