"""What begins alike goes to one replica, and all of them get some."""

from collections import Counter

import pytest

from tests.replicas.cluster import Cluster, chat

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

CONVERSATIONS, TURNS = 12, 4


def test_at_least_95_percent_of_all_turns_are_where_their_conversation_began(cluster: Cluster) -> None:
    began: Counter[str] = Counter()
    stayed = total = 0
    with cluster.client() as client:
        for conversation in range(CONVERSATIONS):
            said = [{"role": "user", "content": f"question {conversation}"}]
            places = []
            for turn in range(TURNS):
                before = cluster.samples("genarm_request_success_total")
                weights = {"helpful": turn, "harmless": -turn}
                answer = client.post(
                    "/v1/chat/completions", json=chat(messages=said, max_tokens=4, preferences=weights)
                )
                content = answer.raise_for_status().json()["choices"][0]["message"]["content"]
                said += [{"role": "assistant", "content": content}, {"role": "user", "content": "on?"}]
                after = cluster.samples("genarm_request_success_total")
                places.append(next(name for name in after if after[name] > before.get(name, 0)))
            began[places[0]] += 1
            stayed += places.count(places[0])
            total += TURNS
    assert stayed >= 0.95 * total, (stayed, total)
    assert len(began) == 2, "one replica has all of it"
    hits = cluster.samples("genarm_prefix_cache_queries_total")
    assert len(hits) == 2


def test_a_session_stays_together_whatever_it_says(cluster: Cluster) -> None:
    before = cluster.samples("genarm_request_success_total")
    with cluster.client() as client:
        for number in range(6):
            body = chat(messages=[{"role": "user", "content": f"other {number}"}], max_tokens=1)
            client.post("/v1/chat/completions", json=body, headers={"x-session-id": "s"}).raise_for_status()
    after = cluster.samples("genarm_request_success_total")
    assert sorted(after[name] - before.get(name, 0) for name in after) == [0, 6]
