"""How routes document what they answer: their refusals, and streams beside plain bodies."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from server.api.schema import ErrorBody

Responses = dict[int | str, dict[str, Any]]

GENERATING = (400, 401, 404, 413, 415, 429, 503, 504)
"""Statuses of a route that generates text."""

_WHEN = {
    400: "Something in the body is wrong or not offered; `param` names the field",
    401: "No or a wrong API key",
    403: "The key may not do this",
    404: "No such model",
    409: "Not as things are now",
    413: "The body is over the limit",
    415: "The body is not declared as JSON",
    429: "The queue is full, or the key has all that it may have of it",
    503: "Loading, draining or dead, or the request waited too long for its turn",
    504: "The answer took too long",
}
_RETRY = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}


def refusals(*statuses: int) -> Responses:
    """The OpenAPI responses for these statuses, all with the one error body."""
    return {
        status: {
            "model": ErrorBody,
            "description": _WHEN[status],
            **({"headers": _RETRY} if status in (429, 503) else {}),
        }
        for status in statuses
    }


def streamed(whole: type[BaseModel], chunk: type[BaseModel]) -> Responses:
    """The OpenAPI response of a route that answers with ``whole``, or with events that each hold a ``chunk``."""
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": f"#/components/schemas/{chunk.__name__}"},
    }
    events = {"schema": {"type": "object", "required": ["data"], "properties": {"data": data}}}
    return {
        200: {
            "model": whole,
            "description": "The answer; with `stream`, events of `data: <chunk>` and a last `data: [DONE]`",
            "content": {"text/event-stream": events},
        }
    }
