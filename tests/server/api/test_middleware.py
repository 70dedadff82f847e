"""What every request passes before a route sees it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from server.access import Caller, Hosts, KeyRing, Range, plain_key
from server.api.middleware import ApiKeys, Cors, HostCheck, RequestId
from server.config import Deployment, HttpSettings, read_deployment


class Inner:
    """The routes: answers 200 and keeps what it was called with."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, _: Any, send: Any) -> None:
        self.scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def ask(
    app: Any, path: str = "/v1/models", method: str = "GET", kind: str = "http", **headers: str
) -> list[Any]:
    """The messages that ``app`` sends to a request."""
    told: list[Any] = []
    named = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": kind, "path": path, "headers": named, "method": method, "state": {"request_id": "r1"}}

    async def send(message: Any) -> None:
        told.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    asyncio.run(app(scope, receive, send))
    return told


def status(app: Any, path: str = "/v1/models", key: str | None = None, **headers: str) -> int:
    """What ``app`` answers to a GET."""
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return int(ask(app, path, **headers)[0]["status"])


@pytest.fixture(scope="module")
def served() -> Deployment:
    declared = {"model": "m", "base": {"model": "b"}, "rewards": [{"name": "kind", "model": "k"}]}
    return read_deployment({**declared, "weight_ranges": {"kind": [0, 1]}}, "d")


@pytest.fixture
def inner() -> Inner:
    return Inner()


@pytest.fixture
def keyed(served: Deployment, inner: Inner) -> Callable[..., ApiKeys]:
    """``keyed("a", "b")``: lets these keys in."""

    def make(*keys: str, **options: Any) -> ApiKeys:
        ring = KeyRing(served, [plain_key(key, f"{key}-holder") for key in keys])
        return ApiKeys(inner, ring, **options)

    return make


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/metrics", "/tokenize", "/openapi.json", "/HEALTH", "/health/x", "", "//health"]
)
def test_a_route_is_closed_unless_it_is_known_to_be_open(keyed: Callable[..., ApiKeys], path: str) -> None:
    app = keyed("a", open_paths=["/page"])
    assert status(app, path) == 401
    assert status(app, path, "A") == 401
    assert status(app, path, "a") == 200
    for known in ("/health", "/ready", "/page"):
        assert status(app, known) == 200


def test_a_route_knows_who_calls(keyed: Callable[..., ApiKeys], inner: Inner) -> None:
    status(keyed("a", "b"), key="b")
    state = inner.scopes[-1]["state"]
    assert (state["caller"].name, state["caller"].ranges) == ("b-holder", {"kind": Range(0, 1)})
    assert state["owner"] == state["caller"].owner != ""
    status(keyed(), key="b")
    state = inner.scopes[-1]["state"]
    assert (state["caller"], state["owner"]) == (Caller(ranges={"kind": Range(0, 1)}), "")


def test_who_comes_without_a_key_to_an_open_route_is_nobody(
    keyed: Callable[..., ApiKeys], inner: Inner
) -> None:
    for key in (None, "wrong"):
        assert status(keyed("a"), "/health", key) == 200
        assert inner.scopes[-1]["state"]["caller"] == Caller()
        assert inner.scopes[-1]["state"]["owner"] == ""


def test_what_is_no_http_does_not_come_through(keyed: Callable[..., ApiKeys], inner: Inner) -> None:
    for app in (keyed("a"), keyed()):
        assert ask(app, kind="websocket") == [{"type": "websocket.close", "code": 1008}]
    assert inner.scopes == []


def test_a_foreign_host_is_refused_and_supervisors_are_not(inner: Inner) -> None:
    app = HostCheck(inner, Hosts(HttpSettings(), anonymous=True))
    assert status(app, host="evil.example") == 400
    assert status(app) == 400
    assert inner.scopes == []
    assert status(app, host="localhost:8000") == 200
    assert status(app, "/ready", host="10.0.0.7:8000") == 200


def test_two_hosts_are_none(inner: Inner) -> None:
    app = HostCheck(inner, Hosts(HttpSettings(), anonymous=True))
    scope = {"type": "http", "path": "/", "method": "GET", "state": {"request_id": "r"}}
    scope["headers"] = [(b"host", b"localhost"), (b"host", b"evil")]
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, send, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 400


def headers(messages: list[Any]) -> dict[str, str]:
    """The response's headers."""
    return {name.decode().lower(): value.decode() for name, value in messages[0]["headers"]}


def test_only_declared_origins_get_cors_headers(keyed: Callable[..., ApiKeys], inner: Inner) -> None:
    app = Cors(keyed("a"), ["https://ours.example"])
    asked = {
        "access_control_request_method": "PATCH",
        "access_control_request_headers": "authorization,x-stainless-os",
    }
    preflight = ask(app, method="OPTIONS", origin="https://ours.example", **asked)
    assert preflight[0]["status"] == 200
    assert headers(preflight)["access-control-allow-origin"] == "https://ours.example"
    assert "PATCH" in headers(preflight)["access-control-allow-methods"]
    assert inner.scopes == []
    # A page can read that its key is wrong.
    assert (
        headers(ask(app, origin="https://ours.example"))["access-control-allow-origin"]
        == "https://ours.example"
    )
    for origin in ("https://evil.example", "https://ours.example.evil", "http://ours.example", "null"):
        refused = ask(app, method="OPTIONS", origin=origin, **asked)
        assert refused[0]["status"] == 401
        assert not [name for name in headers(refused) if name.startswith("access-control")]
    assert "access-control-allow-credentials" not in headers(preflight)


def test_a_refusal_has_an_id(keyed: Callable[..., ApiKeys]) -> None:
    answer = ask(RequestId(keyed("a")), x_request_id="mine-1")
    assert (answer[0]["status"], headers(answer)["x-request-id"]) == (401, "mine-1")
