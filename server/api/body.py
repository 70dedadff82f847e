"""JSON bodies into checked models.

Whatever is wrong with one is a 400 that names the field, never a 422 and never a 500.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from server.errors import InvalidRequest, NotJson, clip

M = TypeVar("M", bound=BaseModel)


def json_body(model: type[M]) -> Callable[[Request], Awaitable[M]]:
    """A dependency that reads the body as a ``model``.

    FastAPI's own reading is not used because it takes NaN for a number, coerces types and answers 422.
    """

    async def read(request: Request) -> M:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise NotJson(f"The body must be application/json, not '{clip(kind)}'.")
        return parse(model, await request.body())

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
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _complaint(error.errors(include_url=False)[0]) from None


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
            f"'{param}' = {clip(error['input'])} {message}.", param=param, code="not_offered"
        )
    return InvalidRequest(f"Invalid '{param}': {message}.", param=param, code="invalid_value")


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("~"):
            path += f"{'.' if path else ''}{clip(part)}"
    return path
