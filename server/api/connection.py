"""A client's connection, which a request may end at once."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it; it bounds the headers. ``scope["state"]["abort"]`` closes the connection now, with what is
    not written yet: closing it otherwise waits until that is read.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort}
