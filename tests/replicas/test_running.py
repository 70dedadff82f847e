"""A request under way is seen, steered and cancelled from whichever gateway; no other id leads anywhere."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.replicas.cluster import Cluster, streaming

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

PATH = "/v1/chat/completions/"


def test_every_request_about_a_running_id_reaches_its_replica(cluster: Cluster) -> None:
    """Six changes and looks at each of four streams, over connections of their own: with two gateways none could by chance."""
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
