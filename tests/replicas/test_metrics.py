"""/metrics through Ray: every series of every replica under its name, or added up; of those that answer."""

import os
import shutil
import signal
import subprocess
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.replicas.cluster import REPLICA, Cluster, chat

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def exposition(cluster: Cluster, **query: str) -> str:
    with cluster.client() as client:
        response = client.get("/metrics", params=query).raise_for_status()
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return response.text


def series(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample; none is there twice."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def answer_some(cluster: Cluster) -> None:
    """At both replicas, and one request that is refused."""
    with cluster.client() as client:
        for number in range(8):
            fields = {"max_tokens": 5, "guidance": {"report": "summary"}}
            client.post("/v1/chat/completions", json=chat(f"counted {number}", **fields)).raise_for_status()
        assert client.post("/v1/chat/completions", json=chat(model="no")).status_code == 404
    cluster.idle()


def test_the_sum_is_that_of_all_but_shares_and_moments(cluster: Cluster) -> None:
    answer_some(cluster)
    each, together = series(exposition(cluster)), series(exposition(cluster, replica="all"))
    apart: dict[tuple[str, frozenset[tuple[str, str]]], dict[str, float]] = {}
    for (name, labels), value in each.items():
        replica = dict(labels)["replica"]
        rest = frozenset(one for one in labels if one[0] != "replica")
        apart.setdefault((name, rest), {})[replica] = value
    assert apart.keys() == together.keys()
    kinds = set()
    for key, values in apart.items():
        name, found = key[0], list(values.values())
        if name.endswith(("_perc", "_ratio")):
            kinds.add("share")
            assert together[key] == pytest.approx(sum(found) / len(found), abs=1e-9)
        elif name.endswith(("_created", "_start_time_seconds")):
            kinds.add("moment")
            assert together[key] == min(found)
        else:
            kinds.add(name.rpartition("_")[2])
            assert together[key] == pytest.approx(sum(found))
    assert kinds >= {"share", "moment", "total", "bucket", "count", "sum", "running"}
    model = frozenset({("model_name", "tiny")})
    assert len(apart["genarm_generation_tokens_total", model]) == 2
    assert together["genarm_generation_tokens_total", model] > 0


def test_counts_of_a_replica_never_fall(cluster: Cluster) -> None:
    before = series(exposition(cluster))
    answer_some(cluster)
    after = series(exposition(cluster))
    for key, value in before.items():
        if key[0].endswith(("_total", "_bucket", "_count")):
            assert after[key] >= value, key


@pytest.mark.parametrize("query", [{}, {"replica": "all"}])
def test_prometheus_reads_it(cluster: Cluster, query: dict[str, str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    text = exposition(cluster, **query)
    done = subprocess.run(
        [promtool, "check", "metrics", "--extended"], input=text, capture_output=True, text=True, timeout=60
    )
    # 3: what it would call otherwise, which concerns one server as well.
    assert done.returncode in (0, 3), done.stderr
    assert "error while linting" not in done.stderr


def test_a_replica_that_does_not_answer_is_left_out_in_time_for_a_scrape(cluster: Cluster) -> None:
    names = cluster.wait_for_replicas(2)
    still = cluster.pids(REPLICA)[0]
    os.kill(still, signal.SIGSTOP)
    try:
        began = time.monotonic()
        found = set(cluster.samples("genarm_num_requests_running"))
        took = time.monotonic() - began
    finally:
        os.kill(still, signal.SIGCONT)
    assert len(found) == 1 and found < names
    assert took < 10, "Prometheus waits so long unless told"
    cluster.wait_for_replicas(2)


def test_head_says_the_same_without_the_text(cluster: Cluster) -> None:
    with cluster.client() as client:
        response = client.head("/metrics")
    assert (response.status_code, response.content) == (200, b"")
