"""What is true of one server is true of all of them together: refusals, bounds of keys, metrics."""

import contextlib
import time

import pytest

from tests.replicas.cluster import Cluster, chat, streaming

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_a_bounded_key_has_its_bound_on_all_replicas_together(cluster: Cluster) -> None:
    with cluster.client(cluster.bounded) as client, contextlib.ExitStack() as running:
        ids = []
        for number in range(3):
            id, _ = running.enter_context(streaming(client, text=f"bound {number}", max_tokens=3000))
            ids.append(id)
        refused = [
            client.post("/v1/chat/completions", json=chat(f"more {number}", max_tokens=1))
            for number in range(6)
        ]
        assert {answer.status_code for answer in refused} == {429}
        assert {answer.json()["error"]["code"] for answer in refused} == {"concurrency_limit"}
        assert all(answer.headers["retry-after"] for answer in refused)
        client.delete(f"/v1/chat/completions/{ids[0]}").raise_for_status()
        deadline = time.monotonic() + 5
        while (answer := client.post("/v1/chat/completions", json=chat(max_tokens=1))).status_code == 429:
            assert time.monotonic() < deadline
        assert answer.status_code == 200, answer.text
    cluster.idle()


def test_whoever_has_no_key_and_whoever_says_too_much_hears_it_in_our_words(cluster: Cluster) -> None:
    with cluster.client("wrong") as client:
        for path in ("/v1/models", "/metrics", "/nowhere"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    with cluster.client() as client:
        long = client.post("/v1/chat/completions", json=chat("x" * (4 * 1024 * 1024)))
        assert (long.status_code, long.json()["error"]["code"]) == (413, "request_too_large")
        assert client.get("/nowhere").json()["error"]["code"] == "unknown_url"
        assert client.post("/v1/chat/completions", content=b"{").status_code == 415
        assert client.put("/v1/models").status_code == 405


def test_a_request_has_one_id_and_its_own_if_it_brought_one(cluster: Cluster) -> None:
    with cluster.client() as client:
        answer = client.get("/v1/models", headers={"x-request-id": "mine-1"})
        assert answer.headers.get_list("x-request-id") == ["mine-1"]
        assert len(client.get("/v1/models").headers.get_list("x-request-id")) == 1


def test_metrics_of_all_are_those_of_each_added_up(cluster: Cluster) -> None:
    cluster.idle()
    each = cluster.samples("genarm_generation_tokens_total")
    with cluster.client() as client:
        text = client.get("/metrics", params={"replica": "all"}).text
    (line,) = [line for line in text.splitlines() if line.startswith("genarm_generation_tokens_total{")]
    assert len(each) == 2
    assert float(line.rpartition(" ")[2]) == sum(each.values()) > 0
    assert "replica=" not in text


def test_rewards_are_not_changed_on_one_replica_alone(cluster: Cluster) -> None:
    with cluster.client(cluster.admin) as client:
        assert [one["name"] for one in client.get("/v1/admin/rewards").json()["data"]] == [
            "helpful",
            "harmless",
        ]
        for answer in (
            client.post("/v1/admin/rewards", json={"name": "new", "model": "anything"}),
            client.delete("/v1/admin/rewards/helpful"),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "replicas")
    with cluster.client() as client:
        assert client.delete("/v1/admin/rewards/helpful").status_code == 403


def test_an_answer_is_the_same_on_each_replica(cluster: Cluster) -> None:
    with cluster.client() as client:
        texts = {
            client.post(
                "/v1/chat/completions", json=chat(max_tokens=20), headers={"x-session-id": str(number)}
            ).json()["choices"][0]["message"]["content"]
            for number in range(6)
        }
    assert len(texts) == 1
