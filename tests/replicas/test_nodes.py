"""Two nodes with a replica each: the loss of one ends what was there and nothing else; a new node gets its replica."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients.conftest import KEY
from tests.faults.streams import Stream
from tests.replicas.cluster import Service, chat, deploy, free_port, start

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]

PATH = "/v1/chat/completions"


class Nodes:
    """The nodes, and what is done to them."""

    def __init__(self) -> None:
        self.process = start("tests.replicas.nodes", stdin=subprocess.PIPE)
        self.address = self._said("nodes: at").split()[-1]

    def do(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        self._said(f"nodes: {what} done")

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(120)

    def _said(self, beginning: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(beginning):
                return line
        raise AssertionError("the nodes ended")


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray.serve", reason="needs Ray: pip install 'genarm[ray]'")
    running = Nodes()
    yield running
    running.end()


def test_a_lost_node_takes_its_own_along_and_a_new_one_gets_its_replica(nodes: Nodes, config: Path) -> None:
    service = Service(free_port(), key=KEY, admin="", bounded="")
    flags = ("--replicas", "2", "--gateways", "2", "--num-cpus", "1", "--address", nodes.address)
    command = deploy(config, service.port, *flags)
    printed, _ = command.communicate(timeout=600)
    assert command.returncode == 0, printed
    before = service.wait_for_replicas(2)
    streams = [
        Stream(service.url, KEY, max_tokens=500, messages=[{"role": "user", "content": f"node {number}"}])
        for number in range(10)
    ]
    for stream in streams:
        stream.began(2)
    nodes.do("kill")
    told = [stream.whole() for stream in streams]
    whole = [number for number, events in enumerate(told) if events[-1] == "[DONE]"]
    assert 0 < len(whole) < len(streams)
    for number, stream in enumerate(streams):
        # Through the lost node's own proxy or gateway nothing more can be said, but nobody takes it for the end.
        ended = number in whole or "error" in json.loads(stream.events[-1])
        assert ended or stream.broken is not None
    deadline = time.monotonic() + 60
    while not _is_answered(service):
        assert time.monotonic() < deadline
        time.sleep(1)
    nodes.do("add")
    assert len(service.wait_for_replicas(2) & before) == 1


def _is_answered(service: Service) -> bool:
    try:
        with service.client() as client:
            answers = [client.post(PATH, json=chat(f"after {number}", max_tokens=1)) for number in range(4)]
    except httpx.HTTPError:
        return False
    return all(answer.status_code == 200 for answer in answers)
