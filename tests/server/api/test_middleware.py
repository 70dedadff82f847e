"""What every request passes before a route sees it."""

import asyncio
import hmac
from typing import Any

import pytest

from server.api import middleware
from server.api.middleware import ApiKeys


def status(app: ApiKeys, key: str | None, path: str = "/v1/models") -> int:
    """What ``app`` answers to a GET with this key."""
    headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
    told: list[Any] = []

    async def send(message: Any) -> None:
        told.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    asyncio.run(app({"type": "http", "path": path, "headers": headers, "method": "GET"}, receive, send))
    return int(told[0]["status"])


async def inner(_: Any, __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("key", "expected"), [("a", 200), ("b", 200), ("c", 200), ("d", 401), ("", 401), (None, 401)]
)
def test_every_key_is_compared_in_constant_time_whichever_fits(
    monkeypatch: pytest.MonkeyPatch, key: str | None, expected: int
) -> None:
    compared: list[tuple[int, int]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return hmac.compare_digest(left, right)

    class Watched:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(middleware, "hmac", Watched)
    assert status(ApiKeys(inner, ["a", "b", "c"]), key) == expected
    # Digests, so that not even the length of a key shows.
    assert compared == [(32, 32)] * 3


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/metrics", "/tokenize", "/openapi.json", "/HEALTH", "/health/x", ""]
)
def test_a_route_is_closed_unless_it_is_known_to_be_open(path: str) -> None:
    app = ApiKeys(inner, ["a"], open_paths=["/page"])
    assert status(app, None, path) == 401
    assert status(app, "a", path) == 200
    for known in ("/health", "/ready", "/page"):
        assert status(app, None, known) == 200
