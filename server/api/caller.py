"""Who sends a request, for routes that answer each caller in their own way."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from server.access import Caller


def caller(request: Request) -> Caller:
    """The caller whom the middleware let in."""
    found: Caller = request.state.caller
    return found


Sender = Annotated[Caller, Depends(caller)]
"""A route's parameter that receives who sends the request."""
