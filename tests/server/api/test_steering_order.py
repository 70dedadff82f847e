"""Changes of a running request in quick order and in great number: each is recorded, the last holds, nobody else is disturbed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

STORM = 1000


def test_of_quick_changes_each_is_recorded_in_order_and_the_last_holds(
    scripted: Callable[..., Any], until: Any
) -> None:
    with scripted() as server, server.client() as client, server.open(client, max_tokens=9) as events:
        url = f"/v1/chat/completions/{next(events)['id']}"
        with server.client() as other:
            for at_token in (0, 4):
                until(lambda at=at_token: other.get(url).json()["tokens"] == at)
                for weight in range(10):
                    changed = other.patch(url, json={"preferences": {"helpful": at_token + weight}}).json()
                    assert changed["at_token"] == at_token
                server.engine.allow(4)
            until(lambda: other.get(url).json()["tokens"] == 8)
            state = other.get(url).json()
        server.engine.free()
        final = [chunk for chunk in events if chunk != "[DONE]"][-1]["guidance"]
        told = [(change["at_token"], change["preferences"]["helpful"]) for change in final["changes"]]
        assert told == [(at, float(at + weight)) for at in (0, 4) for weight in range(10)]
        assert final["changes"] == state["changes"]
        assert final["preferences"] == {"helpful": 1.0, "harmless": 0.5}  # those it began with
        assert server.engine.mixes[-1] == {"base": 1.0, "helpful": 13.0, "harmless": 0.0}


def test_a_thousand_changes_from_many_hands_are_all_answered_and_the_stream_is_whole(
    scripted: Callable[..., Any],
) -> None:
    with scripted("abc ") as server, server.client() as client, server.open(client, max_tokens=8) as events:
        url = f"/v1/chat/completions/{next(events)['id']}"

        def change(number: int) -> tuple[int, float]:
            answer = hands[number % len(hands)].patch(url, json={"preferences": {"helpful": number / 100}})
            return answer.status_code, answer.json()["preferences"]["helpful"]

        hands = [server.client() for _ in range(8)]
        with ThreadPoolExecutor(len(hands)) as pool:
            answers = list(pool.map(change, range(STORM)))
        assert answers == [(200, number / 100) for number in range(STORM)]
        now = hands[0].get(url).json()["preferences"]
        for hand in hands:
            hand.close()
        server.engine.free()
        chunks = list(events)
    assert chunks.pop() == "[DONE]"
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == "abc abc "
    changes = chunks[-1]["guidance"]["changes"]
    assert sorted(change["preferences"]["helpful"] for change in changes) == [n / 100 for n in range(STORM)]
    assert changes[-1]["preferences"] == now
    assert server.engine.mixes[-1] == {"base": 1.0, **now}


def test_a_storm_of_changes_does_not_disturb_the_answer_beside(real: Any) -> None:
    fields: dict[str, Any] = {"seed": 9, "ignore_eos": True, "max_tokens": 60, "preferences": {"harmless": 1}}
    alone = real.chat(**fields).json()["choices"][0]["message"]["content"]
    with real.client() as client, real.open(client, ignore_eos=True, max_tokens=200) as events:
        url = f"/v1/chat/completions/{next(events)['id']}"
        with ThreadPoolExecutor(1) as pool, real.client() as other:
            beside = pool.submit(real.chat, **fields)
            bad, good = 0, 0
            while not beside.done():
                good += other.patch(url, json={"preferences": {"helpful": good % 7}}).status_code == 200
                bad += other.patch(url, json={"preferences": {"nope": 1}}).status_code == 400
            assert beside.result().json()["choices"][0]["message"]["content"] == alone
        assert good and bad
        assert list(events)[-1] == "[DONE]"


@pytest.mark.parametrize("ending", ["finished", "cancelled", "left"])
def test_what_has_ended_can_neither_be_seen_nor_changed_nor_cancelled(
    scripted: Callable[..., Any], until: Any, ending: str
) -> None:
    with scripted() as server, server.client() as other:
        client = server.client()
        with server.open(client, max_tokens=3) as events:
            url = f"/v1/chat/completions/{next(events)['id']}"
            if ending == "finished":
                server.engine.free()
                list(events)
            elif ending == "cancelled":
                assert other.delete(url).status_code == 200
        client.close()
        until(lambda: other.get(url).status_code == 404)
        changed = other.patch(url, json={"preferences": {"helpful": 9}})
        assert changed.status_code == other.delete(url).status_code == 404
        assert (
            changed.json() == other.patch("/v1/chat/completions/chatcmpl-0", json={"preferences": {}}).json()
        )
        assert len(server.engine.mixes) == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        (b'{"preferences": {"helpful": NaN}}', None),
        (b'{"preferences": {"helpful": Infinity}}', None),
        (b'{"preferences": {"helpful": 1e400}}', None),
        (b'{"guidance": {"beta": NaN}}', None),
        (b'{"guidance": {"beta": -1}}', "guidance.beta"),
        (b'{"guidance": {"beta": 0}}', "guidance.beta"),
        (b'{"preferences": {"nope": 1}}', "preferences.nope"),
        (b'{"preferences": {"base": 1}}', "preferences.base"),
        (b'{"preferences": {"helpful": "1"}}', "preferences.helpful"),
        (b'{"preferences": [1]}', "preferences"),
    ],
)
def test_a_change_that_is_refused_leaves_the_real_answer_as_it_was(
    real: Any, change: bytes, param: str | None
) -> None:
    fields: dict[str, Any] = {"seed": 4, "ignore_eos": True, "max_tokens": 40}
    alone = real.chat(**fields).json()["choices"][0]["message"]["content"]
    with real.client() as client, real.open(client, **fields) as events, real.client() as other:
        chunks = [next(events)]
        headers = {"content-type": "application/json"}
        answer = other.patch(f"/v1/chat/completions/{chunks[0]['id']}", content=change, headers=headers)
        chunks += [chunk for chunk in events if chunk != "[DONE]"]
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert param is None or error["param"] == param
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == alone
    assert chunks[-1]["guidance"]["changes"] == []


def test_only_the_key_that_started_a_request_changes_it_whatever_it_is_called(
    scripted: Callable[..., Any],
) -> None:
    """Neither another key nor none; the same key in another connection does."""
    mine, theirs = {"authorization": "Bearer mine"}, {"authorization": "Bearer theirs"}
    body = {"preferences": {"helpful": 9}}
    with (
        scripted(keys=["mine", "theirs"]) as server,
        server.client(**mine) as client,
        server.open(client, max_tokens=2) as events,
    ):
        path = f"/v1/chat/completions/{next(events)['id']}"
        url = f"{server.url}{path}"
        assert httpx.patch(url, json=body, headers=theirs).status_code == 404
        assert httpx.patch(url, json=body).status_code == 401
        assert httpx.patch(url.replace("/chat", ""), json=body, headers=mine).status_code == 404
        assert len(server.engine.mixes) == 1
        assert httpx.patch(url, json=body, headers=mine).status_code == 200
        assert len(server.engine.mixes) == 2
        server.engine.free()
        assert list(events)[-1] == "[DONE]"
