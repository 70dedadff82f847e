"""What a request passes in Serve's proxy, before it leaves for a gateway: what the proxy would do for strangers, it is not told.

Serve's proxy hears of it by ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` in the environment of its node: ``CALLBACK``.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.middleware import SANE_ID, error_response
from server.errors import BodyTooLarge
from server.replicas.settings import MOST_BODY

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "server.replicas.doorway:middlewares"

SEND_SECONDS = 30.0
"""How long a client may take nothing of what is written for it."""

_SERVES = frozenset(
    (b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"serve_multiplexed_model_id")
)
"""Headers that tell Serve's proxy what to do, with "-" for "_" as well; they are not for clients."""

_REQUEST_ID = b"x-request-id"

LOG = logging.getLogger("genarm")


def middlewares() -> list[Middleware]:
    """Serve's proxy calls this and puts them around itself."""
    return [Middleware(Doorway)]


class Doorway:
    """Makes an x-request-id where the client's is not sane, drops Serve's own headers, and ends a request whose body is longer
    than ``MOST_BODY`` or whose client takes nothing for ``SEND_SECONDS``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # there are none
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["headers"] = _headers(scope["headers"])
        size, begun = 0, False

        async def taken_in() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            # To Serve a client that sends on and on has left: so it stops reading and ends what is done for it.
            return message if size <= MOST_BODY else {"type": "http.disconnect"}

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                LOG.warning("a client took nothing of its answer for %g s: closed", SEND_SECONDS)
                _abort(send)

        await self.app(scope, taken_in, sent)
        if size > MOST_BODY and not begun:
            refusal = error_response(BodyTooLarge(f"The body is larger than {MOST_BODY} bytes."))
            refusal.headers["connection"] = "close"
            refusal.headers["x-request-id"] = dict(scope["headers"])[_REQUEST_ID].decode()
            await refusal(scope, receive, send)


def _headers(given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those that go on, with one id."""
    kept = [
        (name, _utf8(value))
        for name, value in given
        if name != _REQUEST_ID and name not in _SERVES and name.replace(b"-", b"_") not in _SERVES
    ]
    named = next((value.decode("latin-1") for name, value in given if name == _REQUEST_ID), "")
    request_id = named if SANE_ID.fullmatch(named) else f"req_{secrets.token_hex(16)}"
    return [*kept, (_REQUEST_ID, request_id.encode())]


def _utf8(value: bytes) -> bytes:
    """Serve reads values as UTF-8 and fails where they are not; what is not is read as HTTP has it."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()
    return value


def _abort(send: Send) -> None:
    """Closes the connection with what is not sent. ``send`` is uvicorn's, of the request that has the connection; it says nothing
    more once that is closed, and Serve hears that the client has left.

    Raises:
        ConnectionAbortedError: ``send`` is not like that.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionAbortedError("the client takes nothing")
    transport.abort()
