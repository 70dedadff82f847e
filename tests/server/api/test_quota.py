"""Other servers are asked before a bounded key gets more and told what it gave back; ids are as they are made."""

from collections.abc import Callable
from typing import Any

from server.access import KeyEntry, plain_key
from server.api.places import Claim
from server.errors import ConcurrencyLimit


class Elsewhere:
    """Grants as long as ``has`` is true, and notes what it was asked and told."""

    def __init__(self) -> None:
        self.has = True
        self.asked: list[int] = []
        self.told: list[int] = []

    async def grant(self, claim: Claim, held: int) -> None:
        assert claim.most == 3
        self.asked.append(held)
        if not self.has:
            raise ConcurrencyLimit("elsewhere", retry_after=1)

    def left(self, owner: str, held: int) -> None:
        assert owner
        self.told.append(held)


def bounded() -> KeyEntry:
    return KeyEntry("bounded", plain_key("b", "b").digest, max_concurrent=3)


def test_a_bounded_key_is_asked_about_with_all_that_it_has(scripted: Callable[..., Any], until: Any) -> None:
    quota = Elsewhere()
    with (
        scripted(quota=quota, keys=[bounded()]) as server,
        server.client(authorization="Bearer b") as client,
        server.open(client, n=2, max_tokens=3) as events,
        server.client(authorization="Bearer b") as other,
    ):
        next(events)
        quota.has = False
        refused = other.post("/v1/chat/completions", json=server.body(max_tokens=1))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "concurrency_limit")
        assert (quota.asked, quota.told) == ([2, 3], [2])
        server.engine.free()
        assert list(events)[-1] == "[DONE]"
        until(lambda: quota.told[-1] == 0)
        assert server.serving.dispatcher.admitted == 0


def test_what_was_refused_elsewhere_left_nothing_here(scripted: Callable[..., Any]) -> None:
    quota = Elsewhere()
    quota.has = False
    with scripted(quota=quota, keys=[bounded()]) as server, server.client(authorization="Bearer b") as client:
        for _ in range(5):
            assert client.post("/v1/chat/completions", json=server.body()).status_code == 429
        assert quota.asked == [1] * 5
        assert server.engine.requests == {}
        assert server.serving.dispatcher.admitted == 0


def test_keys_without_a_bound_are_not_asked_about(scripted: Callable[..., Any]) -> None:
    quota = Elsewhere()
    with scripted(quota=quota, keys=["k"]) as server, server.client(authorization="Bearer k") as client:
        server.engine.free()
        assert client.post("/v1/chat/completions", json=server.body(max_tokens=1)).status_code == 200
    assert quota.asked == []


def test_ids_of_all_routes_are_made_by_whoever_is_given(scripted: Callable[..., Any]) -> None:
    with scripted(new_id=lambda prefix: f"{prefix}mine") as server, server.client() as client:
        server.engine.free()
        assert server.chat(max_tokens=1).json()["id"] == "chatcmpl-mine"
        assert server.complete("a", max_tokens=1).json()["id"] == "cmpl-mine"
        response = client.post("/v1/responses", json={"model": "tiny", "input": "a", "max_output_tokens": 16})
        assert response.json()["id"] == "resp_mine"


def test_what_several_serve_is_not_changed_by_one(scripted: Callable[..., Any]) -> None:
    admin = KeyEntry("admin", plain_key("a", "a").digest, admin=True)
    with (
        scripted(is_fixed=True, keys=[admin, "k"]) as server,
        server.client(authorization="Bearer a") as client,
    ):
        assert len(client.get("/v1/admin/rewards").json()["data"]) == 2
        for answer in (
            client.post("/v1/admin/rewards", json={"name": "new", "model": "anything"}),
            client.delete("/v1/admin/rewards/helpful"),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "replicas")
        assert (
            client.delete("/v1/admin/rewards/helpful", headers={"authorization": "Bearer k"}).status_code
            == 403
        )
        assert len(client.get("/v1/preferences").json()["data"]) == 2
