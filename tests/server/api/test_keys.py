"""The keys of a running server: followed in their file, and of no matter to answers that are under way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.access import key_ring


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of one key, "one", that is looked at for every request."""
    monkeypatch.setattr(key_ring, "LOOK_SECONDS", 0.0)
    path = tmp_path / "keys"
    path.write_text("one\n")
    return path


def listed(server: Any, key: str) -> int:
    """The status of a small request with this key."""
    with server.client(authorization=f"Bearer {key}") as client:
        status: int = client.get("/v1/models").status_code
    return status


def test_a_key_that_is_gone_lets_nobody_in_and_ends_no_answer(
    scripted: Callable[..., Any], until: Any, file: Path
) -> None:
    one = {"authorization": "Bearer one"}
    with (
        scripted(http={"api_key_file": str(file)}) as server,
        server.client(**one) as client,
        server.open(client, max_tokens=4) as events,
    ):
        url = f"/v1/chat/completions/{next(events)['id']}"
        assert (listed(server, "one"), listed(server, "two")) == (200, 401)
        file.write_text("two\n")
        assert (listed(server, "one"), listed(server, "two")) == (401, 200)
        with server.client(**one) as former, server.client(authorization="Bearer two") as new:
            assert former.patch(url, json={"preferences": {"helpful": 0}}).status_code == 401
            # Nor has the new one what was the old one's.
            assert new.get(url).status_code == 404
        server.engine.free()
        assert list(events)[-1] == "[DONE]"
        until(lambda: server.serving.dispatcher.admitted == 0)
        file.write_text("keys: [\n")
        assert (listed(server, "one"), listed(server, "two")) == (401, 200)


def test_metrics_are_open_where_that_is_asked_for(scripted: Callable[..., Any], file: Path) -> None:
    with (
        scripted(http={"api_key_file": str(file), "open_metrics": True}) as server,
        server.client() as client,
    ):
        assert client.get("/metrics").status_code == 200
        for path in ("/metrics/", "/v1/models", "/openapi.json"):
            assert client.get(path).status_code == 401


def test_pages_of_declared_origins_may_call(scripted: Callable[..., Any]) -> None:
    ours = {"origin": "https://ours.example"}
    with scripted(http={"cors_origins": ["https://ours.example"]}) as server, server.client() as client:
        asked = {"access-control-request-method": "PATCH", "access-control-request-headers": "content-type"}
        preflight = client.options("/v1/chat/completions/x", headers=ours | asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://ours.example"
        refused = client.post("/v1/chat/completions", json={}, headers=ours)
        assert refused.status_code == 400
        assert refused.headers["access-control-allow-origin"] == "https://ours.example"
        assert "x-request-id" in refused.headers["access-control-expose-headers"]
        other = client.get("/v1/models", headers={"origin": "https://evil.example"})
        assert not [name for name in other.headers if name.startswith("access-control")]
