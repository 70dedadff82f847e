"""What every request passes before a route sees it: an id, the key, the size of its body.

Plain ASGI, so that streams stay streams.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access.caller import Caller
from server.errors import ApiError, BodyTooLarge, InvalidKey, InvalidRequest

OPEN_PATHS = frozenset({"/health", "/ready"})
"""Routes that never need a key; every other one does, the unknown ones included."""

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def error_response(error: ApiError) -> JSONResponse:
    """The one way an error becomes an HTTP response."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


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
        request_id = given if _SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}"
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


class ApiKeys:
    """Lets in whoever has a key; without keys, everybody. ``open_paths`` need none, nor do ``OPEN_PATHS``.

    ``scope["state"]["owner"]`` tells callers apart without keeping keys.
    """

    def __init__(self, app: ASGIApp, keys: Iterable[str], open_paths: Iterable[str] = ()) -> None:
        self.app = app
        self._open = OPEN_PATHS.union(open_paths)
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or answers 401."""
        if scope["type"] == "http":
            digest = _digest(_bearer(Headers(scope=scope)))
            state = scope.setdefault("state", {})
            owner = digest.hex() if self._digests else ""
            state["owner"] = owner
            state.setdefault("caller", Caller(owner, "key" if owner else "anonymous"))
            if self._digests and scope["path"] not in self._open and not self._knows(digest):
                error = InvalidKey("Incorrect API key provided: send 'Authorization: Bearer <key>'.")
                await error_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _knows(self, digest: bytes) -> bool:
        # Every key is compared, in constant time: how long it takes tells nothing.
        return bool(sum([hmac.compare_digest(digest, other) for other in self._digests]))


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


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _bearer(headers: Headers) -> bytes:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip().encode("latin-1") if scheme.lower() == "bearer" else b""
