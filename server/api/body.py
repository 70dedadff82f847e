"""JSON bodies into checked models.

Whatever is wrong with one is a 400 that names the field, never a 422 and never a 500.
"""

from __future__ import annotations

import asyncio
import reprlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from server.errors import InvalidRequest, NotJson, QueueFull, clip
from server.fair_thread import FairThread

M = TypeVar("M", bound=BaseModel)

MAX_KEYS = 10_000
MAX_PARTS = 200_000
"""Fields of one object at any depth, and objects and lists in all. What a request may hold stays far below; to make and to
complain about more would hold up everybody for seconds. Only bodies larger than ``SMALL`` bytes can have so many.
"""

SMALL = 1 << 16
"""Bytes of a body that is read where it comes in; what is larger would hold up everybody's streams for as long as that takes."""


class BodyThread:
    """Reads large bodies, in turn for each owner; ``most``: of those that wait for it, how many one owner may have."""

    def __init__(self, most: int) -> None:
        self._thread = FairThread("bodies", rest=3.0)
        self._most = most

    async def parse(self, model: type[M], body: bytes, owner: str) -> M:
        """As :func:`parse`.

        Raises:
            InvalidRequest: as there.
            QueueFull: too many of this owner's wait.
        """
        if self._thread.waiting(owner) >= self._most:
            raise QueueFull("Too many of your requests wait to be read; try again later.", retry_after=1)
        return await asyncio.wrap_future(self._thread.submit(lambda: parse(model, body), owner))

    def stop(self) -> None:
        """Drops what has not begun; returns at once."""
        self._thread.stop()


def json_body(model: type[M]) -> Callable[[Request], Awaitable[M]]:
    """A dependency that reads the body as a ``model``.

    FastAPI's own reading is not used because it takes NaN for a number, coerces types and answers 422. When all of the body had
    come is ``request.state.arrived``.
    """

    async def read(request: Request) -> M:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise NotJson(f"The body must be application/json, not '{clip(kind)}'.")
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise NotJson(f"The body must be sent as it is, not with Content-Encoding '{clip(coding)}'.")
        body = await request.body()
        request.state.arrived = time.monotonic()  # waiting for the thread counts; for the client does not
        if len(body) <= SMALL:
            return parse(model, body)
        bodies: BodyThread = request.app.state.serving.bodies
        return await bodies.parse(model, body, request.state.caller.owner)

    return read


def documented(
    model: type[BaseModel], examples: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """What a route adds to the OpenAPI document for a body that ``json_body(model)`` reads, with ``examples``
    of it by name.
    """
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    if examples:
        content["examples"] = {name: {"value": dict(value)} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def parse(model: type[M], body: bytes) -> M:
    """Checks ``body`` strictly.

    Raises:
        InvalidRequest: no JSON, no object, or the first field that is wrong.
    """
    if len(body) > SMALL:
        _check_size(body)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _complaint(error.errors(include_url=False)[0]) from None


def _check_size(body: bytes) -> None:
    try:
        value = from_json(body)
    except ValueError:
        return  # what is wrong with it is told by who reads it
    fields = value if isinstance(value, dict) else {}
    if len(fields) > MAX_KEYS:
        raise InvalidRequest(f"The body has more than {MAX_KEYS} fields.")
    for name, field in fields.items():
        if _is_excessive(field):
            raise InvalidRequest(
                f"'{clip(name)}' holds more than {MAX_PARTS} objects and lists, or an object with more than "
                f"{MAX_KEYS} fields.",
                param=name,
            )


def _is_excessive(value: Any) -> bool:
    parts, pending = 0, [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if len(part) > MAX_KEYS:
                return True
            pending.extend(part.values())
        elif isinstance(part, list):
            # Told by their types, so that not each of a million numbers is looked at by Python.
            if not {dict, list}.isdisjoint(map(type, part)):
                pending.extend(part)
        else:
            continue
        parts += 1
        if parts > MAX_PARTS:
            return True
    return False


def _complaint(error: ErrorDetails) -> InvalidRequest:
    kind, message = error["type"], error["msg"].replace("Tuple", "List").replace("tuple", "list")
    param = _path(error["loc"])
    if kind == "json_invalid":
        return InvalidRequest(f"The body is not valid JSON: {error['ctx']['error']}.", code="invalid_json")
    if not param:
        return InvalidRequest("The body must be a JSON object.")
    if kind == "extra_forbidden":
        return InvalidRequest(f"Unknown field '{param}'.", param=param, code="unknown_field")
    if kind == "missing":
        return InvalidRequest(f"Missing required field '{param}'.", param=param, code="missing_field")
    if kind == "not_offered":
        return InvalidRequest(
            f"'{param}' = {_echo(error['input'])} {message}.", param=param, code="not_offered"
        )
    return InvalidRequest(f"Invalid '{param}': {message}.", param=param, code="invalid_value")


def _echo(value: object) -> str:
    """A value for a message: only the beginning of a large one is looked at."""
    return clip(value if isinstance(value, str) else reprlib.repr(value))


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("~"):
            path += f"{'.' if path else ''}{clip(part)}"
    return path
