"""A new version takes over under load: what runs is finished where it began, what comes is taken, nothing fails."""

import json
import threading
import time
from pathlib import Path

import pytest

from tests.faults.streams import Stream
from tests.replicas.cluster import Cluster, chat

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]

PATH = "/v1/chat/completions"


def test_a_redeploy_under_load_fails_no_request(cluster: Cluster, config: Path) -> None:
    before = cluster.wait_for_replicas(2)
    newer = config.with_name("newer.yaml")
    newer.write_text(config.read_text() + "description: the second version\n")
    wrong: list[str] = []
    answered = changed = 0
    over = threading.Event()

    def ask(number: int) -> None:
        nonlocal answered
        with cluster.client() as client:
            while not over.is_set():
                answer = client.post(PATH, json=chat(f"version {number}", max_tokens=4))
                answered += 1
                if answer.status_code != 200:
                    wrong.append(answer.text)

    def steer(number: int) -> None:
        """One stream after the other, each changed while it runs."""
        nonlocal changed
        turn = 0
        while not over.is_set():
            turn += 1
            fields = {"max_tokens": 500, "messages": [{"role": "user", "content": f"long {number} {turn}"}]}
            stream = Stream(cluster.url, cluster.key, **fields).began(3)
            id = json.loads(stream.events[0])["id"]
            with cluster.client() as client:
                answer = client.patch(f"{PATH}/{id}", json={"guidance": {"beta": 2}})
            is_late = "[DONE]" in stream.events
            events = stream.whole()
            if stream.broken is not None or events[-1] != "[DONE]":
                wrong.append(str(stream.broken or events[-1]))
            if answer.status_code == 200:
                changed += 1
            elif not is_late:
                wrong.append(f"PATCH {answer.text}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    threads += [threading.Thread(target=steer, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(2)
        command = cluster.redeploy(newer)
        printed, _ = command.communicate(timeout=900)
        assert command.returncode == 0, printed
        deadline = time.monotonic() + 300
        while cluster.wait_for_replicas(2) & before:
            assert time.monotonic() < deadline, "the old version is still there"
        time.sleep(3)
    finally:
        over.set()
        for thread in threads:
            thread.join(120)
    assert wrong == []
    assert answered > 10
    assert changed > 2


def test_a_version_that_cannot_start_is_one_line_and_the_last_one_goes_on(
    cluster: Cluster, config: Path
) -> None:
    before = cluster.wait_for_replicas(2)
    broken = config.with_name("broken.yaml")
    broken.write_text(config.read_text().replace("replica-base", "replica-nowhere"))
    stream = Stream(cluster.url, cluster.key, max_tokens=2000).began(3)
    printed, _ = (command := cluster.redeploy(broken)).communicate(timeout=300)
    assert command.returncode == 2, printed
    (said,) = [line for line in printed.splitlines() if line.startswith("genarm: cannot be deployed")]
    assert "replica-nowhere" in said
    with cluster.client() as client:
        assert client.post(PATH, json=chat(max_tokens=1)).status_code == 200
    assert stream.whole()[-1] == "[DONE]"
    assert cluster.wait_for_replicas(1) <= before, "as many as did not have to make room"
    printed, _ = (command := cluster.redeploy(config)).communicate(timeout=300)
    assert command.returncode == 0, printed
    assert not cluster.wait_for_replicas(2) & before
