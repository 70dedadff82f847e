"""Two nodes with a replica each: the loss of one ends what was there and nothing else; a new node gets its replica."""

import contextlib
import itertools
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.clients.conftest import KEY
from tests.faults.streams import Stream
from tests.replicas.cluster import Service, chat, deploy, free_port, messages, start, streaming

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]

PATH = "/v1/chat/completions"
_KEY = {"authorization": f"Bearer {KEY}"}


class Nodes:
    """The nodes, and what is done to them."""

    def __init__(self) -> None:
        self.port = free_port()  # of all nodes but the first
        self.process = start("tests.replicas.nodes", str(self.port), stdin=subprocess.PIPE)
        self.address = self._said("nodes: at").split()[-1]

    def do(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        self._said(f"nodes: {what} done")

    def end(self) -> None:
        with self.process:  # closes its pipes: at the end of its input it ends
            self.process.communicate(timeout=120)

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
    # Serve puts gateways where it likes: of so many there is one on each node.
    flags = ("--replicas", "2", "--gateways", "5", "--num-cpus", "1", "--address", nodes.address)
    command = deploy(config, service.port, *flags)
    printed, _ = command.communicate(timeout=600)
    assert command.returncode == 0, printed
    before = service.wait_for_replicas(2)
    urls = (service.url, f"http://127.0.0.1:{nodes.port}")
    _steer_from_each(urls)
    streams = [
        Stream(url, KEY, max_tokens=1200, messages=messages(f"node {number}"))
        for number in range(12)
        for url in urls
    ]
    for stream in streams:
        stream.began(2)
    nodes.do("kill")
    for stream in streams:
        stream.whole()
    # Each ends in one way, and nobody takes what broke off for the end.
    for stream in streams:
        errors = [event for event in stream.events if event.startswith('{"error"')]
        assert len(errors) <= 1
        assert [stream.broken is not None, bool(errors), stream.events[-1] == "[DONE]"].count(True) == 1
    here, there = (Counter(_end(stream) for stream in side) for side in (streams[::2], streams[1::2]))
    assert there["broken"], "through the lost node's own proxy nothing more can be said"
    assert here["whole"], here
    assert here["error"] + here["broken"], here
    deadline = time.monotonic() + 60
    while not _is_answered(service):
        assert time.monotonic() < deadline
        time.sleep(1)
    nodes.do("add")
    assert len(service.wait_for_replicas(2) & before) == 1


def _end(stream: Stream) -> str:
    """How it ended."""
    if stream.events[-1] == "[DONE]":
        return "whole"
    return "error" if stream.events[-1].startswith('{"error"') else "broken"


def _steer_from_each(urls: Sequence[str]) -> None:
    """Streams through each node are changed and ended through each."""
    with contextlib.ExitStack() as clients:
        sides = [clients.enter_context(httpx.Client(base_url=url, headers=_KEY, timeout=60)) for url in urls]
        for side, other in itertools.product(sides, sides):
            for number in range(3):  # of either replica
                with streaming(side, text=f"steered {number}", max_tokens=3500) as (id, events):
                    changed = other.patch(f"{PATH}/{id}", json={"guidance": {"beta": 2}})
                    assert changed.status_code == 200, changed.text
                    other.delete(f"{PATH}/{id}").raise_for_status()
                    assert list(events)[-1] == "[DONE]"


def _is_answered(service: Service) -> bool:
    try:
        with service.client() as client:
            answers = [client.post(PATH, json=chat(f"after {number}", max_tokens=1)) for number in range(4)]
    except httpx.HTTPError:
        return False
    return all(answer.status_code == 200 for answer in answers)
