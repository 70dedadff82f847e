"""A request under way can be seen, steered and cancelled, by the key that started it and by no other."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest


def test_the_state_shows_the_weights_now_and_the_tokens_so_far(
    scripted: Callable[..., Any], until: Any
) -> None:
    with (
        scripted() as server,
        server.client() as client,
        server.open(client, preferences={"helpful": 2}) as events,
    ):
        url = f"/v1/chat/completions/{next(events)['id']}"
        with server.client() as other:
            queued = other.get(url).json()
            assert (queued["status"], queued["tokens"]) == ("queued", 0)
            server.engine.allow(3)
            until(lambda: other.get(url).json()["tokens"] == 3)
            state = other.get(url).json()
            assert state["status"] == "running"
            assert state["preferences"] == {"helpful": 2.0, "harmless": 0.0}
            assert state["beta"] == 1.0
            server.engine.free()
            list(events)
            assert other.get(url).status_code == 404


def test_a_change_answers_the_token_from_which_it_holds_and_is_recorded(
    scripted: Callable[..., Any], until: Any
) -> None:
    with scripted() as server, server.client() as client, server.open(client, max_tokens=9) as events:
        url = f"/v1/chat/completions/{next(events)['id']}"
        with server.client() as other:
            server.engine.allow(4)
            until(lambda: other.get(url).json()["tokens"] == 4)
            first = other.patch(url, json={"preferences": {"harmless": 3}})
            assert first.status_code == 200, first.text
            assert first.json()["at_token"] == 4
            assert first.json()["preferences"] == {"helpful": 0.0, "harmless": 3.0}
            second = other.patch(url, json={"guidance": {"beta": 2}}).json()
            assert (second["at_token"], second["beta"]) == (4, 2.0)
            assert other.get(url).json()["preferences"] == {"helpful": 0.0, "harmless": 3.0}
        assert server.engine.mixes[1:] == [
            {"base": 1.0, "helpful": 0.0, "harmless": 3.0},
            {"base": 1.0, "helpful": 0.0, "harmless": 1.5},
        ]
        server.engine.free()
        final = [chunk for chunk in events if chunk != "[DONE]"][-1]
        assert final["guidance"] == {
            "method": "genarm",
            "preferences": {"helpful": 1.0, "harmless": 0.5},
            "beta": 1.0,
            "changes": [
                {"at_token": 4, "preferences": {"helpful": 0.0, "harmless": 3.0}, "beta": 1.0},
                {"at_token": 4, "preferences": {"helpful": 0.0, "harmless": 3.0}, "beta": 2.0},
            ],
            "cancelled": False,
        }


def test_changes_of_preferences_and_of_beta_at_the_same_time_both_hold(
    scripted: Callable[..., Any], until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted() as server, server.client() as client, server.open(client, max_tokens=5) as events:
        url = f"/v1/chat/completions/{next(events)['id']}"
        asked: list[dict[str, float]] = []
        slow: Future[dict[str, int]] = Future()

        def change(_: Sequence[str], mix: Mapping[str, float]) -> "Future[dict[str, int]]":
            asked.append(dict(mix))
            return slow

        monkeypatch.setattr(server.engine, "change", change)
        with server.client() as one, server.client() as two, ThreadPoolExecutor() as pool:
            first = pool.submit(one.patch, url, json={"preferences": {"harmless": 3}})
            until(lambda: asked)
            second = pool.submit(two.patch, url, json={"guidance": {"beta": 2}})
            wait([second], timeout=0.3)  # time to arrive while the first is under way
            slow.set_result(dict.fromkeys(server.engine.requests, 0))
            assert first.result().status_code == second.result().status_code == 200
            assert second.result().json()["preferences"] == {"helpful": 0.0, "harmless": 3.0}
        assert asked[-1] == {"base": 1.0, "helpful": 0.0, "harmless": 1.5}
        server.engine.free()
        list(events)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "preferences"),
        ({"preferences": {"nope": 1}}, "preferences.nope"),
        ({"preferences": {"helpful": 1000}}, "preferences.helpful"),
        ({"guidance": {"beta": 0}}, "guidance.beta"),
        ({"guidance": {"beta": 0.001}}, "preferences.helpful"),
        ({"guidance": {"normalize": True}}, "guidance.normalize"),
        ({"model": "tiny"}, "model"),
        ([], None),
    ],
)
def test_a_bad_change_is_400_and_has_no_effect(
    scripted: Callable[..., Any], body: Any, param: str | None
) -> None:
    with scripted() as server, server.client() as client, server.open(client, max_tokens=5) as events:
        url = f"/v1/chat/completions/{next(events)['id']}"
        with server.client() as other:
            response = other.patch(url, json=body)
            assert response.status_code == 400
            assert response.json()["error"]["param"] == param
            nan = b'{"preferences": {"helpful": NaN}}'
            assert (
                other.patch(url, content=nan, headers={"content-type": "application/json"}).status_code == 400
            )
        server.engine.free()
        final = [chunk for chunk in events if chunk != "[DONE]"][-1]
        assert final["guidance"]["changes"] == []
        assert len(server.engine.mixes) == 1


def test_cancelling_ends_the_stream_well(scripted: Callable[..., Any], until: Any) -> None:
    with scripted("abc ") as server, server.client() as client, server.open(client) as events:
        id = next(events)["id"]
        server.engine.allow(3)
        chunks = [next(events)]
        with server.client() as other:
            response = other.delete(f"/v1/chat/completions/{id}")
            assert response.json() == {"id": id, "object": "chat.completion.deleted", "deleted": True}
            assert other.delete(f"/v1/chat/completions/{id}").status_code == 404
        chunks += list(events)
        assert chunks[-1] == "[DONE]"
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
        assert chunks[-2]["guidance"]["cancelled"] is True
        until(lambda: server.engine.aborted == [f"{id}/0"])


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_an_unknown_id_is_404(scripted: Callable[..., Any], method: str) -> None:
    with scripted() as server, server.client() as client:
        body = {"preferences": {"helpful": 1}} if method == "PATCH" else None
        for id in ("chatcmpl-0", "x" * 3000, "%2e%2e", "é"):
            response = client.request(method, f"/v1/chat/completions/{id}", json=body)
            assert response.status_code == 404
            assert response.json()["error"]["type"] == "invalid_request_error"


def test_somebody_elses_request_is_as_unknown_as_none(scripted: Callable[..., Any]) -> None:
    mine, theirs = {"authorization": "Bearer mine"}, {"authorization": "Bearer theirs"}
    with (
        scripted(keys=["mine", "theirs"]) as server,
        server.client(**mine) as client,
        server.open(client, max_tokens=2) as events,
    ):
        url = f"/v1/chat/completions/{next(events)['id']}"
        with server.client(**theirs) as other:
            seen = other.get(url)
            assert seen.status_code == 404
            assert seen.json() == other.get("/v1/chat/completions/chatcmpl-0").json()
            assert other.patch(url, json={"preferences": {"helpful": 9}}).status_code == 404
            assert other.delete(url).status_code == 404
        with server.client(**mine) as again:
            assert again.get(url).status_code == 200
        server.engine.free()
        assert list(events)[-1] == "[DONE]"


def test_a_change_reaches_the_real_engine_in_mid_answer(real: Any) -> None:
    """What was said stays said; what comes after is said under the new weights."""
    fields: dict[str, Any] = {"seed": 5, "ignore_eos": True, "max_tokens": 200, "preferences": {}}
    unchanged = real.chat(**fields).json()["choices"][0]["message"]["content"]
    with real.client() as client, real.open(client, **fields) as events, real.client() as other:
        chunks = [next(events), next(events)]
        changed = other.patch(
            f"/v1/chat/completions/{chunks[0]['id']}", json={"preferences": {"harmless": 3}}
        )
        assert changed.status_code == 200, changed.text
        chunks += [chunk for chunk in events if chunk != "[DONE]"]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    (change,) = chunks[-1]["guidance"]["changes"]
    assert change["at_token"] == changed.json()["at_token"]
    assert 0 < change["at_token"] < 200
    assert text.startswith(chunks[1]["choices"][0]["delta"]["content"])
    assert unchanged.startswith(chunks[1]["choices"][0]["delta"]["content"])
    assert text != unchanged


def test_cancelling_before_the_prompt_is_read_echoes_it_without_log_probs(
    scripted: Callable[..., Any], until: Any
) -> None:
    with scripted("abc ") as server, ThreadPoolExecutor(1) as pool, server.client() as other:
        pending = pool.submit(server.complete, [5, 6, 7], max_tokens=50, n=2, echo=True, logprobs=1)
        until(lambda: len(server.engine.requests) == 2)
        id = next(iter(server.engine.requests)).removesuffix("/0")
        assert other.delete(f"/v1/completions/{id}").status_code == 200
        choices = pending.result().json()["choices"]
        assert [choice["logprobs"]["token_logprobs"] for choice in choices] == [[None] * 3] * 2
        assert [choice["finish_reason"] for choice in choices] == ["stop"] * 2


def test_cancelling_a_request_that_does_not_stream_answers_what_it_has(
    scripted: Callable[..., Any], until: Any
) -> None:
    with scripted("abc ") as server, ThreadPoolExecutor(1) as pool, server.client() as other:
        pending = pool.submit(server.chat, max_tokens=50)
        server.engine.allow(3)
        until(lambda: server.engine.requests)
        (sequence,) = server.engine.requests
        id = sequence.removesuffix("/0")
        until(lambda: other.get(f"/v1/chat/completions/{id}").json()["tokens"] == 3)
        assert other.delete(f"/v1/chat/completions/{id}").status_code == 200
        body = pending.result().json()
        assert body["usage"]["completion_tokens"] == 3
        assert body["choices"][0]["finish_reason"] == "stop"
        assert body["guidance"]["cancelled"] is True
