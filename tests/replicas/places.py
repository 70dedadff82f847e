"""Where answers were made: what only the cluster can read of their ids."""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from server.replicas.ticket import Tickets
from tests.replicas.cluster import ROOT, Cluster, chat, environment

READING = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
from server.replicas.secret import cluster_secret
print(cluster_secret().hex())
"""


class Places:
    """Of each answer, the replica that made it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        done = subprocess.run(
            [sys.executable, "-c", READING, cluster.address],
            env=environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self._tickets = Tickets(bytes.fromhex(done.stdout.split()[-1]))
        self._client = cluster.client()

    def __enter__(self) -> "Places":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def of(self, id: str) -> str:
        """The replica whose answer has this id."""
        found = self._tickets.replica(id)
        assert found is not None, id
        return found

    def ask(self, headers: dict[str, str] | None = None, **fields: Any) -> tuple[str, dict[str, Any]]:
        """One chat: its replica, and its answer."""
        response = self._client.post("/v1/chat/completions", json=chat(**fields), headers=headers)
        answer: dict[str, Any] = response.raise_for_status().json()
        return self.of(answer["id"]), answer

    def converse(self, names: Sequence[str], turns: int, at_once: int = 1) -> list[list[str]]:
        """Conversations of so many turns each, as many ``at_once``; the replicas of their turns."""

        def conversation(name: str) -> list[str]:
            said = [{"role": "user", "content": f"{name}: " + "how is the kettle in the garden? " * 10}]
            places = []
            for turn in range(turns):
                weights = {"helpful": turn, "harmless": -turn}
                place, answer = self.ask(messages=said, max_tokens=4, preferences=weights)
                places.append(place)
                content = answer["choices"][0]["message"]["content"]
                said += [{"role": "assistant", "content": content}, {"role": "user", "content": "on?"}]
            return places

        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(conversation, names))


def stayed(conversations: Iterable[Sequence[str]]) -> float:
    """The share of turns that were where the conversation's first was, the first ones not counted."""
    later = [place == places[0] for places in conversations for place in places[1:]]
    return sum(later) / len(later)
