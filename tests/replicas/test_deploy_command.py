"""What ``genarm deploy ray`` does with signals once it serves: the first waits for what runs, the second does not."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("ray.serve", reason="needs Ray: pip install 'genarm[ray]'")

from ray import serve

from server import deploy_command

pytestmark = pytest.mark.ray


@pytest.fixture(autouse=True)
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Whether Serve was ended in order; signals are as they were afterwards."""
    calls: list[str] = []
    monkeypatch.setattr(serve, "shutdown", lambda: calls.append("shutdown"))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield calls
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int, after: float) -> None:
    threading.Timer(after, os.kill, (os.getpid(), number)).start()


def test_the_first_signal_waits_for_what_runs(monkeypatch: pytest.MonkeyPatch, ended: list[str]) -> None:
    drained: list[float] = []

    def drain(seconds: float) -> None:
        time.sleep(0.2)
        drained.append(seconds)

    monkeypatch.setattr("server.replicas.drain.drain", drain)
    send(signal.SIGTERM, 0.1)
    assert deploy_command._stay(7.0) == 0
    assert (drained, ended) == ([7.0], ["shutdown"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_one_does_not(monkeypatch: pytest.MonkeyPatch, ended: list[str], number: int) -> None:
    forever = threading.Event()
    monkeypatch.setattr("server.replicas.drain.drain", lambda _: forever.wait(30))
    send(signal.SIGTERM, 0.1)
    send(number, 0.3)
    began = time.monotonic()
    assert deploy_command._stay(7.0) == 128 + number
    assert time.monotonic() - began < 5
    assert ended == []
    forever.set()
