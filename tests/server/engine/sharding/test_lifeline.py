"""Everyone learns of everyone's end, and of what they said before; nobody minds who was dismissed."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from queue import SimpleQueue

import pytest

from server.engine.sharding import lifeline
from server.engine.sharding.lifeline import LastWords, Lifeline

HOST = "127.0.0.1"


class Store:
    """Torch's store, for threads of one process."""

    def __init__(self) -> None:
        self.told: Future[str] = Future()

    def set(self, key: str, value: str) -> None:  # noqa: ARG002
        self.told.set_result(value)

    def get(self, key: str) -> bytes:  # noqa: ARG002
        return self.told.result(10).encode()


Lines = list[Lifeline]


def close(line: Lifeline) -> None:
    """What the kernel does for a process that has ended."""
    for connection in line._peers.values():
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Those of three ranks."""
    store, made = Store(), dict[int, Lifeline]()

    def make(rank: int) -> None:
        made[rank] = Lifeline(store, rank, 3, HOST)

    threads = [threading.Thread(target=make, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    yield [made[rank] for rank in range(3)]
    for line in made.values():
        line.close()


def test_rank_0_hears_who_ended_at_once_and_what_they_said(lines: Lines) -> None:
    ended: SimpleQueue[tuple[int, LastWords | None]] = SimpleQueue()
    lines[0].watch(lambda rank, words: ended.put((rank, words)))
    lines[2].say(LastWords("no folder\nof this name " + "x" * 9999, user=True))
    began = time.monotonic()
    close(lines[2])
    rank, words = ended.get(timeout=5)
    assert time.monotonic() - began < 2
    assert rank == 2
    assert words is not None
    assert (words.user, words.message[:23]) == (True, "no folder\nof this name ")


def test_without_last_words_there_are_none(lines: Lines) -> None:
    ended: SimpleQueue[tuple[int, LastWords | None]] = SimpleQueue()
    lines[0].watch(lambda rank, words: ended.put((rank, words)))
    close(lines[1])
    assert ended.get(timeout=5) == (1, None)


def test_the_others_hear_the_end_of_rank_0(lines: Lines) -> None:
    ended: list[Future[int]] = [Future(), Future()]
    for line, future in zip(lines[1:], ended, strict=True):
        line.watch(lambda rank, _, future=future: future.set_result(rank))  # type: ignore[misc]
    close(lines[0])
    assert [future.result(5) for future in ended] == [0, 0]


def test_who_is_dismissed_is_told_and_its_end_is_none(lines: Lines) -> None:
    dismissed: Future[bool] = Future()
    minded: list[int] = []
    lines[0].watch(lambda rank, _: minded.append(rank))
    lines[1].watch(lambda rank, _: minded.append(rank), lambda: dismissed.set_result(True))
    lines[0].dismiss()
    assert dismissed.result(5)
    close(lines[1])
    close(lines[2])
    close(lines[0])
    time.sleep(0.1)
    assert minded == []


def test_who_is_silent_has_ended_and_who_only_waits_has_not(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifeline, "BEAT", 0.05)
    monkeypatch.setattr(lifeline, "WHILE_SERVING", 20)
    ended: SimpleQueue[tuple[int, LastWords | None]] = SimpleQueue()
    for line in lines:
        for connection in line._peers.values():
            connection.settimeout(0.05)
        line.watch(lambda rank, words: ended.put((rank, words)))
    time.sleep(0.6)
    assert ended.empty()
    lines[2]._leaving.set()  # says nothing any more, and its connection stands: as one that is stopped
    time.sleep(1.3)
    assert ended.empty(), "while models load there is more patience"
    lines[0].loaded()
    rank, words = ended.get(timeout=5)
    assert rank == 2
    assert words is not None
    assert not words.user
    assert words.message.startswith("nothing has been heard of it for")
    time.sleep(0.3)
    assert ended.empty(), "rank 1 is there"


def test_who_says_nothing_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "HELLO", 0.2)
    store, made = Store(), dict[int, Lifeline]()
    hub = threading.Thread(target=lambda: made.update({0: Lifeline(store, 0, 2, HOST)}))
    hub.start()
    port = int(store.told.result(10).split()[0])
    with socket.create_connection((HOST, port)):
        made[1] = Lifeline(store, 1, 2, HOST)
        hub.join(10)
    assert set(made[0]._peers) == {1}
    for line in made.values():
        close(line)


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("10.1.2.3", False), ("first", False)],
)
def test_one_machines_processes_meet_on_loopback(host: str, own: bool) -> None:
    with lifeline._listening(host, 2) as listening:
        assert (listening.getsockname()[0] in ("127.0.0.1", "::1")) is own


def test_a_stranger_takes_nobodys_place() -> None:
    store, made = Store(), dict[int, Lifeline]()
    hub = threading.Thread(target=lambda: made.update({0: Lifeline(store, 0, 2, HOST)}))
    hub.start()
    port = int(store.told.result(10).split()[0])
    with socket.create_connection((HOST, port)) as stranger:
        stranger.sendall(b"0123456789abcdef0123456789abcdef 1\n")
        assert stranger.recv(1) == b"", "it is let in"
    made[1] = Lifeline(store, 1, 2, HOST)
    hub.join(10)
    assert set(made[0]._peers) == {1}
    for line in made.values():
        close(line)
