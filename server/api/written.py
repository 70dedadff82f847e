"""An answer's body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import Response
from pydantic import BaseModel

SHORT = 500
"""Tokens and alternatives that are written down in less time than it takes to begin elsewhere: a few milliseconds."""


async def written(answer: Callable[[], BaseModel], size: int) -> Response:
    """``answer()`` as JSON, with the fields that were set; ``size``: its tokens, each with all that is told of it.

    What is long is made in a thread: everybody else's tokens go through the event loop meanwhile.
    """

    def body() -> str:
        return answer().model_dump_json(exclude_unset=True)

    content = body() if size < SHORT else await asyncio.to_thread(body)
    return Response(content, media_type="application/json")
