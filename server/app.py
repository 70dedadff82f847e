"""The FastAPI application over one deployment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic.json_schema import models_json_schema
from sse_starlette.sse import AppStatus
from starlette.exceptions import HTTPException

from server.access import Hosts, KeyRing
from server.api import chat, completions, health, models, page, responses, running, schema, tokenize
from server.api.admin import rewards
from server.api.ids import NewId, random_id
from server.api.middleware import (
    ApiKeys,
    BodyLimit,
    Cors,
    HostCheck,
    InTurn,
    OneLength,
    RequestId,
    error_response,
)
from server.api.quota import Quota
from server.api.request_log import LogRequests
from server.api.schema.admin import RewardRequest
from server.api.schema.responses import ResponseChunk, ResponseRequest
from server.api.schema.tokenize import DetokenizeRequest, TokenizeRequest
from server.api.serving import Serving
from server.api.turns import Turns
from server.config import Deployment, HttpSettings
from server.errors import ApiError, InvalidRequest, MethodNotAllowed, UnknownRoute, clip
from server.runtime import Load, load_runtime

REQUEST_BODIES = (
    schema.ChatCompletionRequest,
    schema.CompletionRequest,
    schema.ChangeRequest,
    ResponseRequest,
    TokenizeRequest,
    DetokenizeRequest,
    RewardRequest,
)

CHUNKS = (schema.ChatCompletionChunk, ResponseChunk)


def create_app(
    deployment: Deployment,
    *,
    keys: KeyRing | None = None,
    load: Load = load_runtime,
    on_ready: Callable[[], None] = lambda: None,
    on_dead: Callable[[BaseException], None] = lambda _: None,
    new_id: NewId = random_id,
    quota: Quota | None = None,
    is_fixed: bool = False,
) -> FastAPI:
    """An application that loads ``deployment`` in the background once it is started.

    Args:
        deployment: what to serve.
        keys: whom to let in; None: as ``deployment`` says.
        load: how models are loaded; tests pass their own.
        on_ready: called when requests are taken.
        on_dead: called once when serving has become impossible (loading failed, the engine died); whoever
            runs the app ends it then.
        new_id: makes the ids of answers.
        quota: what keys have on other servers that serve the same; None: there are none.
        is_fixed: rewards cannot be changed at run time.

    Raises:
        UserError: something that ``deployment`` needs is not installed.
    """
    # Otherwise streams are cut at SIGTERM instead of finishing while the server drains.
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
    keys = KeyRing(deployment) if keys is None else keys
    serving = Serving(
        deployment, load, keys, on_ready, on_dead, new_id=new_id, quota=quota, is_fixed=is_fixed
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        serving.begin()
        yield {"send_seconds": deployment.http.send_seconds}  # for ``Connection``
        serving.end()

    app = FastAPI(
        title="genarm",
        version=metadata.version("genarm"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.serving = serving
    errors: dict[int | str, dict[str, Any]] = {
        "4XX": {"model": schema.ErrorBody, "description": "The request is wrong"},
        "5XX": {"model": schema.ErrorBody, "description": "The server cannot answer now"},
    }
    for module in (chat, completions, responses, running, models, tokenize, rewards, health, page):
        app.include_router(module.router, responses=errors)
    _guard(app, deployment.http, keys, serving)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _guard(app: FastAPI, http: HttpSettings, keys: KeyRing, serving: Serving) -> None:
    """What a request passes before a route sees it, the innermost first."""
    unlocked = (*page.ASSETS, "/metrics") if http.open_metrics else page.ASSETS
    app.add_middleware(BodyLimit, limit=http.max_body_bytes)
    app.add_middleware(InTurn, turns=Turns())
    app.add_middleware(ApiKeys, keys=keys, open_paths=unlocked)
    if http.cors_origins:
        app.add_middleware(Cors, origins=http.cors_origins)
    app.add_middleware(HostCheck, hosts=Hosts(http, anonymous=not keys.required))
    app.add_middleware(OneLength)
    app.add_middleware(RequestId)
    app.add_middleware(LogRequests, log=serving.requests)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals in OpenAI's shape."""
    assert isinstance(error, HTTPException)
    route = f"{request.method} {clip(request.scope['path'])}"
    if error.status_code == 404:
        return error_response(UnknownRoute(f"Unknown request URL: {route}."))
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow")
        return error_response(MethodNotAllowed(f"Not allowed: {route} (allowed: {allow}).", allow=allow))
    return error_response(InvalidRequest(f"Bad request: {route}."))


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with the bodies that ``json_body`` reads and the chunks of streams added to it."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        _, definitions = models_json_schema(
            [
                *((model, "validation") for model in REQUEST_BODIES),
                *((model, "serialization") for model in CHUNKS),
            ],
            ref_template="#/components/schemas/{model}",
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        app.openapi_schema = document
    return app.openapi_schema
