"""One replica that may become two: what is too much is refused in our words, load adds one, its end takes one away, an engine
that dies is replaced, and a signal ends all of it in order.
"""

import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.clients.conftest import KEY
from tests.faults.streams import Stream
from tests.replicas.cluster import REPLICA, Cluster, chat, messages
from tests.replicas.conftest import ADMIN, BOUNDED

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def growing(config: Path) -> Iterator[Cluster]:
    """A batch of two, a queue of six, and a second replica for more than five requests."""
    pytest.importorskip("ray.serve", reason="needs Ray: pip install 'genarm[ray]'")
    path = config.with_name("growing.yaml")
    declared = config.read_text().replace("max_sequences: 16", "max_sequences: 2")
    path.write_text(declared.replace("{api_key_file", "{max_queue: 6, key_share: 1.0, api_key_file"))
    flags = ["--replicas", "1", "--max-replicas", "2", "--target-ongoing", "5", "--num-cpus", "0.5"]
    flags += ["--upscale-seconds", "2", "--downscale-seconds", "2"]
    running = Cluster(path, *flags, module="tests.replicas.failing", key=KEY, admin=ADMIN, bounded=BOUNDED)
    try:
        yield running
    finally:
        running.end()


class Talks:
    """Streams one after the other, each of another conversation, from ``number`` clients, until the end of the block."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.wrong: list[str] = []
        self._cluster = cluster
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._talk, args=(one,)) for one in range(number)]

    def __enter__(self) -> "Talks":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(120)

    def _talk(self, number: int) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            said = messages(f"side {number} {turn}")
            stream = Stream(self._cluster.url, KEY, max_tokens=800, messages=said)
            events = stream.whole()
            if stream.broken is not None or (events and events[-1] != "[DONE]"):
                self.wrong.append(str(stream.broken or events[-1]))
            elif not events:
                time.sleep(0.1)  # refused: whoever asks for one more had its place


def test_what_is_too_much_is_refused_in_our_words_and_adds_a_replica(growing: Cluster) -> None:
    with Talks(growing, 10) as talks, growing.client() as client:
        deadline = time.monotonic() + 60
        while sum(growing.samples("genarm_num_requests_waiting").values()) < 6:
            assert time.monotonic() < deadline
        while (refused := client.post(PATH, json=chat("one more", max_tokens=1))).status_code != 429:
            assert time.monotonic() < deadline
        assert refused.json()["error"]["code"] == "queue_full"
        assert set(refused.json()["error"]) == {"message", "type", "param", "code"}
        assert int(refused.headers["retry-after"]) > 0
        growing.wait_for_replicas(2, 90)
        # Where one has a full queue, the other has room.
        for number in range(6):
            answer = client.post(PATH, json=chat(f"one more {number}", max_tokens=1))
            assert answer.status_code == 200, answer.text
    assert talks.wrong == []


def test_a_replica_ends_when_few_are_enough_and_what_runs_there_is_finished(growing: Cluster) -> None:
    before = growing.wait_for_replicas(2, 30)
    used = set[str]()
    with Talks(growing, 3) as talks:  # more than a batch
        deadline = time.monotonic() + 120
        while len(running := growing.samples("genarm_num_requests_running")) > 1:
            used |= {name for name, number in running.items() if number}
            assert time.monotonic() < deadline, "nothing has ended"
            time.sleep(1)
    assert talks.wrong == []
    assert used == before, "both had work"
    assert len(growing.wait_for_replicas(1, 30)) == 1


def _ask(cluster: Cluster, text: str) -> tuple[int, str | None]:
    with cluster.client() as client:
        answer = client.post(PATH, json=chat(text, max_tokens=1))
    return answer.status_code, None if answer.status_code == 200 else answer.json()["error"]["code"]


def test_an_engine_that_dies_takes_its_own_along_and_the_next_request_waits_for_its_successor(
    growing: Cluster,
) -> None:
    before = growing.wait_for_replicas(1, 60)
    bystander = Stream(growing.url, KEY, max_tokens=3000, messages=messages("beside")).began(2)
    with growing.client() as client:
        failed = client.post(PATH, json=chat("fail", max_tokens=50), headers={"x-fail": "1"})
        # Its engine died under it or, for the bystander, just before it came there.
        assert failed.status_code == 503
        assert failed.json()["error"]["code"] in ("engine_dead", "unavailable")
        # More than Serve lets wait for a replica that is not there yet, and than the new one then takes.
        with ThreadPoolExecutor(130) as pool:
            rush = [pool.submit(_ask, growing, f"rush {number}") for number in range(130)]
            assert client.post(PATH, json=chat("after", max_tokens=1)).status_code in (200, 429)
            assert {one.result() for one in rush} == {(200, None), (429, "queue_full")}
        assert client.post(PATH, json=chat("after", max_tokens=1)).status_code == 200
    events = bystander.whole()
    errors = [event for event in events if event.startswith('{"error"')]
    assert errors == [events[-1]]
    assert json.loads(errors[0])["error"]["code"] == "engine_dead"
    assert not growing.wait_for_replicas(1, 60) & before


def test_a_version_for_another_port_is_refused_before_anything_changes(growing: Cluster) -> None:
    growing.wait_for_replicas(1, 90)
    before = growing.pids(REPLICA)
    growing.port, port = growing.port + 1, growing.port
    try:
        command = growing.redeploy(growing.config)
        printed, _ = command.communicate(timeout=120)
    finally:
        growing.port = port
    assert command.returncode == 2, printed
    said = [line for line in printed.splitlines() if line.startswith("genarm: ")]
    assert len(said) == 1
    assert f"Serve on this cluster listens on 127.0.0.1:{port}" in said[0]
    assert growing.pids(REPLICA) == before


def test_a_signal_finishes_what_runs_and_takes_nothing_new(growing: Cluster) -> None:
    growing.wait_for_replicas(1, 90)
    streams = [
        Stream(growing.url, KEY, max_tokens=800, messages=messages(f"last {number}")) for number in range(2)
    ]
    for stream in streams:
        stream.began(2)
    waiting = Stream(growing.url, KEY, max_tokens=100, messages=messages("queued"))
    deadline = time.monotonic() + 30
    while not sum(growing.samples("genarm_num_requests_waiting").values()):
        assert time.monotonic() < deadline
    growing.process.send_signal(signal.SIGTERM)
    with growing.client() as client:
        while client.get("/ready").status_code != 503:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        refused = client.post(PATH, json=chat("new", max_tokens=1))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert refused.headers["retry-after"]
        id = json.loads(streams[0].events[0])["id"]
        assert client.patch(f"{PATH}/{id}", json={"guidance": {"beta": 2}}).status_code == 200
    for stream in (*streams, waiting):
        events = stream.whole()
        assert (events[-1], stream.broken) == ("[DONE]", None)
    assert growing.process.wait(60) == 0
    assert not growing.pids(REPLICA)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{growing.url}/ready")
