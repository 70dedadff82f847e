"""The keys of a running server: followed in their file, and of no matter to answers that are under way."""

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

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


def write(file: Path, **limits: dict[str, Any]) -> None:
    """A key for each name, which is the key too, that may as much as is said."""
    entries = [
        {"name": name, "hash": f"sha256:{sha256(name.encode()).hexdigest()}", **limit}
        for name, limit in limits.items()
    ]
    file.write_text(yaml.safe_dump({"keys": entries}))


@pytest.fixture
def bounded(scripted: Callable[..., Any], file: Path) -> Iterator[Any]:
    """A server on which the key "few" may have three choices under way, and the key "many" as many as there are places."""
    write(file, few={"max_concurrent": 3}, many={})
    with scripted(http={"api_key_file": str(file), "key_share": 1.0}) as server:
        yield server


def test_a_key_has_as_many_choices_under_way_as_its_entry_says(bounded: Any, until: Any) -> None:
    server = bounded
    with (
        server.client(authorization="Bearer few") as few,
        server.client(authorization="Bearer few") as other,
        server.client(authorization="Bearer many") as many,
    ):
        chat, body = "/v1/chat/completions", server.body(max_tokens=3)
        for fields in ({"n": 4}, {"n": 2, "best_of": 4}):
            path = "/v1/completions" if "best_of" in fields else chat
            asked = {"model": "tiny", "prompt": "x", **fields} if "best_of" in fields else body | fields
            impossible = few.post(path, json=asked)
            assert impossible.status_code == 400
            assert "This key makes at most 3 choices" in impossible.json()["error"]["message"]
        with server.open(few, n=2, max_tokens=3) as events:
            id = next(events)["id"]
            # A choice counts from when it is let in, whether or not it has said anything;
            with server.open(other, max_tokens=3) as more:
                second = next(more)["id"]
                for asked in (body, body | {"stream": True}, body | {"n": 2}):
                    refused = few.post(chat, json=asked)
                    assert (refused.status_code, refused.json()["error"]["code"]) == (
                        429,
                        "concurrency_limit",
                    )
                    assert "has 3 answers under way and may have 3" in refused.json()["error"]["message"]
                    assert int(refused.headers["retry-after"]) >= 1
                # what is no choice does not,
                for _ in range(5):
                    assert few.patch(f"{chat}/{id}", json={"guidance": {"beta": 2}}).status_code == 200
                assert few.get("/v1/models").status_code == few.get(f"{chat}/{id}").status_code == 200
                asked = {"model": "tiny", "messages": body["messages"]}
                assert few.post("/tokenize", json=asked).status_code == 200
                # nor does it count for anybody else.
                with server.open(many, n=8, max_tokens=3) as others:
                    next(others)
                # A cancelled one is given back,
                assert few.delete(f"{chat}/{second}").status_code == 200
                list(more)
            until(lambda: server.serving.dispatcher.admitted == 2)
            with server.open(other, max_tokens=3) as more:
                next(more)
                assert few.post(chat, json=body).status_code == 429
            # so is one whose reader has left,
            until(lambda: server.serving.dispatcher.admitted == 2)
            with server.open(other, max_tokens=3) as more:
                next(more)
                server.engine.free()
                assert list(more)[-1] == "[DONE]"
            assert list(events)[-1] == "[DONE]"
        # and one that has ended.
        until(lambda: server.serving.dispatcher.admitted == 0)
        for _ in range(4):
            assert few.post(chat, json=body | {"n": 3}).status_code == 200


def test_what_was_never_begun_is_given_back_too(bounded: Any) -> None:
    server = bounded
    server.engine.free()
    with server.client(authorization="Bearer few") as few:
        for fields in (
            {"messages": [{"role": "user", "content": "x " * 4000}]},
            {"preferences": {"nobody": 1}},
            {"guidance": {"method": "best_of_n", "n_candidates": 4}},
            {"max_tokens": 10_000},
        ):
            for _ in range(4):
                asked = server.body(n=1, **fields)
                assert few.post("/v1/chat/completions", json=asked).status_code == 400, fields
        assert few.post("/v1/chat/completions", json=server.body(n=3, max_tokens=1)).status_code == 200


def test_another_limit_holds_for_what_comes_and_ends_nothing(bounded: Any, file: Path, until: Any) -> None:
    server, chat = bounded, "/v1/chat/completions"
    with server.client(authorization="Bearer few") as few, server.open(few, n=3, max_tokens=3) as events:
        id = next(events)["id"]
        write(file, few={"max_concurrent": 1, "presets": ["kind"]}, many={})
        with server.client(authorization="Bearer few") as other:
            body = server.body(max_tokens=1)
            assert "may have 1;" in other.post(chat, json=body).json()["error"]["message"]
            assert other.post(chat, json=body | {"n": 2}).status_code == 400
            assert other.post(chat, json=body | {"model": "tiny:plain"}).status_code == 404
            # It is still its holder's.
            assert other.patch(f"{chat}/{id}", json={"guidance": {"beta": 2}}).status_code == 200
            server.engine.free()
            assert list(events)[-1] == "[DONE]"
            until(lambda: server.serving.dispatcher.admitted == 0)
            assert other.post(chat, json=body).status_code == 200


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
