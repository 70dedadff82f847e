"""A request under way is seen, steered and cancelled from whichever gateway; no other id leads anywhere."""

import contextlib
import json
import os
import secrets
import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.replicas.cluster import GATEWAY, Cluster, chat, streaming

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

PATH = "/v1/chat/completions/"


def test_every_request_about_a_running_id_reaches_its_replica(cluster: Cluster) -> None:
    """Six changes and looks at each of four streams, each over a connection of its own."""
    with cluster.client() as client, ThreadPoolExecutor(4) as pool:

        def steer(number: int) -> None:
            with streaming(client, text=f"stream {number}", max_tokens=3000) as (id, events):
                for beta in range(1, 7):
                    with cluster.client() as other:
                        changed = other.patch(PATH + id, json={"guidance": {"beta": beta}})
                        assert changed.status_code == 200, changed.text
                        assert other.get(PATH + id).json()["beta"] == beta
                with cluster.client() as other:
                    assert other.delete(PATH + id).json()["deleted"] is True
                *_, last, done = events
            assert done == "[DONE]"
            guidance = json.loads(last)["guidance"]
            assert guidance["cancelled"] is True
            assert [change["beta"] for change in guidance["changes"]] == [float(one) for one in range(1, 7)]

        list(pool.map(steer, range(4)))
    cluster.idle()


def test_each_gateway_reaches_every_running_id(cluster: Cluster) -> None:
    """While the other one stands still; what was given to that one goes on without its client when it moves again."""
    with cluster.client() as client, contextlib.ExitStack() as running:
        ids = [
            running.enter_context(streaming(client, text=f"both {number}", max_tokens=3900))[0]
            for number in range(4)
        ]
        gateways = cluster.pids(GATEWAY)
        assert len(gateways) == 2
        for still in gateways:
            os.kill(still, signal.SIGSTOP)
            try:
                for id in ids:
                    seen = _answered(cluster, PATH + id)
                    assert seen["id"] == id
            finally:
                os.kill(still, signal.SIGCONT)
        for id in ids:
            client.delete(PATH + id).raise_for_status()
    cluster.idle()


def _answered(cluster: Cluster, path: str) -> dict[str, object]:
    """By whichever gateway answers."""
    deadline = time.monotonic() + 30
    headers = {"authorization": f"Bearer {cluster.key}"}
    while True:
        with contextlib.suppress(httpx.TimeoutException):
            answer: dict[str, object] = (
                httpx.get(cluster.url + path, headers=headers, timeout=1.5).raise_for_status().json()
            )
            return answer
        assert time.monotonic() < deadline


def test_a_completion_is_steered_like_a_chat_and_a_chats_route_does_not_know_it(cluster: Cluster) -> None:
    fields = {"model": "tiny", "prompt": "the kettle", "stream": True, "ignore_eos": True, "max_tokens": 3000}
    with cluster.client() as client, client.stream("POST", "/v1/completions", json=fields) as response:
        assert response.status_code == 200, response.read()
        events = (line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: "))
        id = json.loads(next(events))["id"]
        with cluster.client() as other:
            change = {"preferences": {"harmless": 2}}
            assert other.patch(f"/v1/completions/{id}", json=change).status_code == 200
            assert other.get(f"/v1/completions/{id}").json()["preferences"]["harmless"] == 2
            assert other.get(PATH + id).status_code == 404
            assert other.delete(f"/v1/completions/{id}").json()["deleted"] is True
        *_, last, done = events
    assert done == "[DONE]"
    assert json.loads(last)["guidance"]["cancelled"] is True
    cluster.idle()


def test_a_change_holds_from_the_token_that_is_answered(cluster: Cluster) -> None:
    with cluster.client() as client, cluster.client() as other:
        with streaming(client, max_tokens=120, return_token_ids=True, temperature=0) as (id, events):
            next(events)
            changed = other.patch(PATH + id, json={"preferences": {"harmless": 3}}).json()
            chunks = [json.loads(event) for event in events if event != "[DONE]"]
        assert chunks[-1]["guidance"]["changes"][0]["at_token"] == changed["at_token"] > 0
        assert chunks[-1]["guidance"]["preferences"] == {"helpful": 1.0, "harmless": 0.0}
        assert chunks[-1]["guidance"]["changes"][0]["preferences"] == {"helpful": 0.0, "harmless": 3.0}


def test_forged_foreign_and_finished_ids_are_told_the_same(cluster: Cluster) -> None:
    with cluster.client() as client, streaming(client, max_tokens=3000) as (id, events):
        forged = id[:-1] + ("0" if id[-1] != "0" else "1")
        answers = [
            _asked(cluster, method, PATH + one, key)
            for method in ("GET", "PATCH", "DELETE")
            for one, key in (
                (forged, cluster.key),
                ("chatcmpl-" + "0" * len(id[9:]), cluster.key),
                ("nope", cluster.key),
                (id, cluster.bounded),
                (id.replace("chatcmpl-", "cmpl-"), cluster.key),
            )
        ]
        with cluster.client() as other:
            other.delete(PATH + id).raise_for_status()
        list(events)
    answers.append(_asked(cluster, "GET", PATH + id, cluster.key))
    assert {(one.status_code, one.text) for one in answers} == {(404, answers[0].text)}
    assert {frozenset(one.headers) for one in answers} == {frozenset(answers[0].headers)}
    assert answers[0].json()["error"]["code"] == "not_found"
    cluster.idle()


def test_how_long_a_404_takes_says_nothing_of_the_id(cluster: Cluster) -> None:
    """Of an id that runs for somebody else, one that was forged, and one that nobody made."""
    rounds = 30
    with cluster.client() as client, contextlib.ExitStack() as running:
        ids = [
            running.enter_context(streaming(client, text=f"slow {number}", max_tokens=3900))[0]
            for number in range(4)
        ]
        took: dict[str, list[float]] = {"foreign": [], "forged": [], "random": []}
        with cluster.client(cluster.bounded) as other:
            for number in range(rounds):
                real = ids[number % len(ids)]
                forged = real[:-1] + ("0" if real[-1] != "0" else "1")
                random = "chatcmpl-" + secrets.token_hex(len(real[9:]) // 2)
                for kind, id in (("foreign", real), ("forged", forged), ("random", random)):
                    began = time.perf_counter()
                    assert other.get(PATH + id).status_code == 404
                    took[kind].append(time.perf_counter() - began)
        for id in ids:
            client.delete(PATH + id)
    medians = {kind: statistics.median(times) for kind, times in took.items()}
    assert max(medians.values()) < 1.5 * min(medians.values()) + 0.005, medians
    cluster.idle()


def _asked(cluster: Cluster, method: str, path: str, key: str) -> httpx.Response:
    body = {"guidance": {"beta": 2}} if method == "PATCH" else None
    with cluster.client(key) as client:
        return client.request(method, path, json=body)


def test_a_client_that_leaves_ends_the_work_for_it(cluster: Cluster) -> None:
    with cluster.client() as client:
        for number in range(4):
            with streaming(client, text=f"left {number}", max_tokens=3000) as (_, events):
                next(events)
    cluster.idle()
    assert sum(cluster.samples("genarm_request_success_total", finished_reason="abort").values()) >= 4


def test_a_client_that_does_not_wait_for_its_whole_answer_ends_the_work_for_it(cluster: Cluster) -> None:
    """What is no stream has sent nothing yet when its client leaves."""
    cluster.idle()
    before = sum(cluster.samples("genarm_request_success_total", finished_reason="abort").values())
    with pytest.raises(httpx.ReadTimeout), cluster.client() as client:
        client.post(PATH.rstrip("/"), json=chat("left whole", max_tokens=3900), timeout=1.5)
    cluster.idle()
    after = sum(cluster.samples("genarm_request_success_total", finished_reason="abort").values())
    assert after == before + 1
