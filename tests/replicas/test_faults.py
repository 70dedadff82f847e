"""A replica that is killed takes its own streams along and nothing else; one comes in its place by itself."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

pytest.importorskip("ray.serve", reason="needs Ray: pip install 'genarm[ray]'")

from server.replicas.router import SILENT_SECONDS
from tests.faults.streams import Stream
from tests.replicas.cluster import GATEWAY, REGISTRY, REPLICA, Cluster, chat

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

PATH = "/v1/chat/completions"


def test_a_killed_replica_ends_its_streams_with_one_error_and_all_others_go_on(cluster: Cluster) -> None:
    names = cluster.wait_for_replicas(2)
    streams = [
        Stream(cluster.url, cluster.key, max_tokens=500, seed=seed, messages=_said(f"kill {seed}"))
        for seed in range(12)
    ]
    for stream in streams:
        stream.began(2)
    running = cluster.samples("genarm_num_requests_running")
    assert all(running[name] >= 2 for name in names), running
    ids = [json.loads(stream.events[0])["id"] for stream in streams]
    victim = cluster.pids(REPLICA)[0]
    os.kill(victim, signal.SIGKILL)
    with cluster.client() as client:
        for number in range(6):
            answer = client.post(PATH, json=chat(f"after {number}", max_tokens=2))
            assert answer.status_code == 200, answer.text
    told = [stream.whole() for stream in streams]
    assert all(stream.broken is None for stream in streams)
    failed = [number for number, events in enumerate(told) if events[-1] != "[DONE]"]
    assert 2 <= len(failed) <= 10
    for number, events in enumerate(told):
        errors = [event for event in events if event.startswith('{"error"')]
        if number not in failed:
            assert errors == []
            assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
            continue
        assert errors == [events[-1]]
        error = json.loads(events[-1])["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["code"]) == ("server_error", "engine_dead")
    with cluster.client() as client:
        gone = client.patch(f"{PATH}/{ids[failed[0]]}", json={"guidance": {"beta": 2}})
        unknown = client.patch(f"{PATH}/nope", json={"guidance": {"beta": 2}})
        assert (gone.status_code, gone.text) == (unknown.status_code, unknown.text) == (404, unknown.text)
    assert len(cluster.wait_for_replicas(2) - names) == 1


def test_under_load_no_request_but_those_of_the_killed_replica_fails(cluster: Cluster) -> None:
    cluster.wait_for_replicas(2)
    outcomes: list[int] = []
    over = threading.Event()

    def ask(number: int) -> None:
        with cluster.client() as client:
            while not over.is_set():
                outcomes.append(client.post(PATH, json=chat(f"load {number}", max_tokens=6)).status_code)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(2)
        os.kill(cluster.pids(REPLICA)[0], signal.SIGKILL)
        time.sleep(5)
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert set(outcomes) <= {200, 503}
    assert outcomes.count(503) <= 6, "each thread had one request there at most"
    assert outcomes.count(200) > 6
    assert set(outcomes[-6:]) == {200}
    cluster.wait_for_replicas(2)


def test_a_replica_that_stands_still_holds_up_its_own_and_fails_nobody(cluster: Cluster) -> None:
    cluster.wait_for_replicas(2)
    streams = [
        Stream(cluster.url, cluster.key, max_tokens=600, messages=_said(f"still {number}"))
        for number in range(10)
    ]
    for stream in streams:
        stream.began(2)
    still = cluster.pids(REPLICA)[0]
    with ThreadPoolExecutor(12) as pool, cluster.client() as client:
        os.kill(still, signal.SIGSTOP)
        try:
            time.sleep(0.5)
            said = [len(stream.events) for stream in streams]
            # Those that go to it before it is known to stand still wait for it.
            early = [pool.submit(_ask, cluster, f"early {number}") for number in range(12)]
            time.sleep(SILENT_SECONDS + 0.5)
            moved = [len(stream.events) > before for stream, before in zip(streams, said, strict=True)]
            assert any(moved), "the other replica goes on"
            assert not all(moved)
            assert {one.done() for one in early} == {True, False}
            for number in range(8):
                answer = client.post(PATH, json=chat(f"late {number}", max_tokens=1), timeout=5)
                assert answer.status_code == 200, answer.text
            assert client.get("/ready", timeout=5).status_code == 200
            assert len(cluster.samples("genarm_num_requests_running")) == 1, (
                "of the other one there are metrics"
            )
        finally:
            os.kill(still, signal.SIGCONT)
        assert [one.result(60) for one in early] == [200] * 12
    assert [stream.whole()[-1] for stream in streams] == ["[DONE]"] * 10
    assert still in cluster.pids(REPLICA), "nobody took it for dead"


def test_a_replica_that_stands_still_for_good_is_replaced(cluster: Cluster) -> None:
    before = cluster.wait_for_replicas(2)
    streams = [
        Stream(cluster.url, cluster.key, max_tokens=600, messages=_said(f"stopped {number}"))
        for number in range(10)
    ]
    for stream in streams:
        stream.began(2)
    still = cluster.pids(REPLICA)[0]
    os.kill(still, signal.SIGSTOP)
    with ThreadPoolExecutor(8) as pool:
        early = [pool.submit(_ask, cluster, f"stuck {number}") for number in range(8)]
        told = [stream.whole() for stream in streams]
        assert [one.result(60) for one in early] == [200] * 8, "those that it did not take went elsewhere"
    failed = [events for events in told if events[-1] != "[DONE]"]
    assert 0 < len(failed) < 10
    for events in failed:
        assert [event for event in events if event.startswith('{"error"')] == [events[-1]]
    assert len(cluster.wait_for_replicas(2) - before) == 1
    assert still not in cluster.pids(REPLICA)


def test_a_killed_gateway_breaks_its_connections_and_no_stream_ends_as_if_it_were_whole(
    cluster: Cluster,
) -> None:
    streams = [
        Stream(cluster.url, cluster.key, max_tokens=500, messages=_said(f"gate {number}"))
        for number in range(8)
    ]
    for stream in streams:
        stream.began(2)
    os.kill(cluster.pids(GATEWAY)[0], signal.SIGKILL)
    with cluster.client() as client:
        answers = [client.post(PATH, json=chat(f"gate after {number}", max_tokens=1)) for number in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    told = [stream.whole() for stream in streams]
    broken = [stream.broken is not None for stream in streams]
    assert any(broken)
    assert [events[-1] == "[DONE]" for events in told] == [not one for one in broken]
    cluster.idle()
    deadline = time.monotonic() + 300
    while len(cluster.pids(GATEWAY)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_bounded_keys_are_served_while_the_registry_is_away(cluster: Cluster) -> None:
    os.kill(cluster.pids(REGISTRY)[0], signal.SIGKILL)
    with cluster.client(cluster.bounded) as client:
        for number in range(4):
            answer = client.post(PATH, json=chat(f"alone {number}", max_tokens=1))
            assert answer.status_code == 200, answer.text
    deadline = time.monotonic() + 300
    while not cluster.pids(REGISTRY):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _ask(cluster: Cluster, text: str) -> int:
    with cluster.client() as client:
        return client.post(PATH, json=chat(text, max_tokens=1)).status_code


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_nothing_is_held_when_all_is_over(cluster: Cluster) -> None:
    cluster.idle()
    usage = cluster.samples("genarm_num_requests_waiting")
    assert set(usage.values()) == {0.0}
    assert httpx.get(f"{cluster.url}/ready").json() == {"status": "ready"}
