"""What is true of one server is true of all of them together: refusals, bounds of keys, metrics."""

import contextlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from server.playground import read_assets
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


def test_a_bound_holds_when_all_come_at_once(cluster: Cluster) -> None:
    """As long as the registry answers there are never more than 3, whichever replicas they are sent to; while it does not, each
    replica lets one in.
    """
    bodies = [chat(f"rush {number}", max_tokens=600) for number in range(30)]
    most = 0

    def ask(body: dict[str, object]) -> int:
        with cluster.client(cluster.bounded) as client:
            return client.post("/v1/chat/completions", json=body).status_code

    with ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(ask, body) for body in bodies]
        while not all(one.done() for one in asked):
            most = max(most, int(sum(cluster.samples("genarm_num_requests_running").values())))
        statuses = Counter(one.result() for one in asked)
    assert statuses.keys() == {200, 429}
    assert statuses[200] >= 1
    alone = any("ledger of keys does not answer" in line for line in cluster.printed)
    assert 1 <= most <= 3 + 2 * alone
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
        assert client.post("/v1/chat/completions", files={"model": b"tiny"}).status_code == 415
        assert client.put("/v1/models").status_code == 405


def test_probes_need_no_key_and_models_are_listed(cluster: Cluster) -> None:
    for path, said in (("/health", {"status": "ok"}), ("/ready", {"status": "ready"})):
        for method in ("GET", "HEAD"):
            answer = httpx.request(method, cluster.url + path, timeout=30)
            assert answer.status_code == 200
            assert answer.content == (b"" if method == "HEAD" else answer.content)
        assert answer.headers["x-request-id"]
        assert httpx.get(cluster.url + path, timeout=30).json() == said
    with cluster.client() as client:
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["tiny", "tiny:kind"]
        assert client.get("/v1/models/tiny:kind").json()["id"] == "tiny:kind"
        assert client.get("/v1/preferences").json()["presets"] == {"kind": {"harmless": 2.0}}
        ids = client.post("/tokenize", json={"prompt": "the kettle"}).json()["tokens"]
        assert "the kettle" in client.post("/detokenize", json={"tokens": ids}).json()["prompt"]


def test_the_page_and_all_that_it_loads_are_there_without_a_key(cluster: Cluster) -> None:
    for path, asset in read_assets().items():
        answer = httpx.get(cluster.url + path, timeout=30)
        assert (answer.status_code, answer.content) == (200, asset.content)
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["content-type"].startswith(asset.media_type)


def test_a_request_has_one_id_and_its_own_if_it_brought_one(cluster: Cluster) -> None:
    with cluster.client() as client:
        answer = client.get("/v1/models", headers={"x-request-id": "mine-1"})
        assert answer.headers.get_list("x-request-id") == ["mine-1"]
        for path in ("/v1/models", "/metrics", "/nowhere"):
            assert len(client.get(path).headers.get_list("x-request-id")) == 1
    with cluster.client("wrong") as client:
        for path in ("/v1/models", "/metrics", "/nowhere"):
            assert len(client.get(path).headers.get_list("x-request-id")) == 1


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


def test_content_in_parts_is_the_same_text_to_all(cluster: Cluster) -> None:
    parts = [{"type": "text", "text": "the kettle"}, {"type": "text", "text": "is hot"}]
    with cluster.client() as client:
        answers = [
            client.post(
                "/v1/chat/completions",
                json=chat(messages=[{"role": "user", "content": content}], max_tokens=8),
            )
            for content in (parts, "the kettle\nis hot")
        ]
        assert answers[0].json()["choices"] == answers[1].raise_for_status().json()["choices"]
        for wrong in ([{"type": "image_url", "image_url": {"url": "x"}}], [3], {"text": "a"}):
            body = chat(messages=[{"role": "user", "content": wrong}])
            refused = client.post("/v1/chat/completions", json=body)
            assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
