"""Who of a group of processes is still there: a connection of each with rank 0 that breaks when its process ends.

The kernel closes it whatever ended the process, and gives it up within seconds where a machine is gone or cut off; a process
that is merely slow keeps it. Nothing else is said on it but a process's last words, and that rank 0 dismisses the others.
"""

import contextlib
import json
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

PATIENCE = 60.0
"""Seconds that the others have to connect, once every process has been heard of."""

LONGEST = 4096
"""Bytes of anyone's last words."""

DISMISSED = b'{"dismissed":true}\n'

_PROBES = (("TCP_KEEPIDLE", 3), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 2))
"""When a peer's kernel is asked whether it is still there: after so many seconds, again after so many, so many times."""


@dataclass(frozen=True, slots=True)
class LastWords:
    """Why a process ends: ``message``, and whether the user, not the program, did something wrong."""

    message: str
    user: bool


OnEnd = Callable[[int, LastWords | None], None]
"""(rank, its last words if it had any): a process of the group ends, has ended or cannot be reached; called once for each."""


class Store(Protocol):
    """What is used of torch's key-value store, by which the processes find each other."""

    def set(self, key: str, value: str) -> None:
        """Says it to all."""

    def get(self, key: str) -> bytes:
        """What was set, as soon as it is."""


class Lifeline:
    """Rank 0's connections with the others, or another's with rank 0.

    Raises:
        OSError: a connection could not be made.
    """

    def __init__(self, store: Store, rank: int, size: int, host: str) -> None:
        """``host``: where rank 0 is reached, an address of its own."""
        self._rank = rank
        self._peers = _accept(store, size, host) if rank == 0 else {0: _connect(store, rank, host)}
        self._leaving = threading.Event()

    def watch(self, on_end: OnEnd, on_dismissal: Callable[[], None] = lambda: None) -> None:
        """From now on, hear of the end of those at the other ends, and on other ranks than 0 of the dismissal; both are called in
        threads of this object's own."""
        for peer, connection in self._peers.items():
            threading.Thread(
                target=self._listen,
                args=(peer, connection, on_end, on_dismissal),
                name=f"lifeline-{peer}",
                daemon=True,
            ).start()

    def say(self, words: LastWords) -> None:
        """Tell rank 0 why this process ends."""
        said = json.dumps({"message": words.message[: LONGEST // 8], "user": words.user}).encode() + b"\n"
        _send(self._peers[0], said)

    def dismiss(self) -> None:
        """The group has done its work: the others end, and nobody minds that this process does."""
        self._leaving.set()
        for connection in self._peers.values():
            _send(connection, DISMISSED)

    def close(self) -> None:
        """Nothing is said or heard any more; nobody minds."""
        self._leaving.set()
        for connection in self._peers.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes who listens
            connection.close()

    def _listen(
        self, peer: int, connection: socket.socket, on_end: OnEnd, on_dismissal: Callable[[], None]
    ) -> None:
        with connection.makefile("rb") as lines:
            while line := _line(lines.readline):
                if self._rank != 0 and line == DISMISSED:
                    self._leaving.set()
                    on_dismissal()
                elif words := _words(line):
                    on_end(peer, words)  # whatever it still does
                    return
        if not self._leaving.is_set():
            on_end(peer, None)


def _accept(store: Store, size: int, host: str) -> dict[int, socket.socket]:
    """A connection with each of the others, who show that they read the same store."""
    own = "127.0.0.1" if _is_loopback(host) else ""
    with socket.create_server((own, 0), backlog=size) as listening:
        token = secrets.token_hex(16)
        store.set("genarm/lifeline", f"{listening.getsockname()[1]} {token}")
        listening.settimeout(PATIENCE)
        peers: dict[int, socket.socket] = {}
        while len(peers) < size - 1:
            connection, _ = listening.accept()
            connection.settimeout(PATIENCE)
            # Unbuffered: what comes behind the line is for whoever listens later.
            hello = (
                connection.makefile("rb", buffering=0).readline(LONGEST).decode("ascii", "replace").split()
            )
            if len(hello) == 2 and secrets.compare_digest(hello[0], token) and hello[1].isdigit():
                peers[int(hello[1])] = _kept_alive(connection)
            else:
                connection.close()
        return peers


def _connect(store: Store, rank: int, host: str) -> socket.socket:
    port, token = store.get("genarm/lifeline").decode().split()
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE)
    connection.sendall(f"{token} {rank}\n".encode())
    return _kept_alive(connection)


def _kept_alive(connection: socket.socket) -> socket.socket:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES:
        if hasattr(socket, name):  # not on every system; there the system's own, which are slower
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _line(read: Callable[[int], bytes]) -> bytes:
    """The next line; empty where there will be none."""
    try:
        return read(LONGEST)
    except OSError:
        return b""


def _send(connection: socket.socket, line: bytes) -> None:
    try:
        connection.sendall(line)
    except OSError:
        return  # it is gone, and whoever listens to it hears that


def _words(line: bytes) -> LastWords | None:
    try:
        said = json.loads(line)
        return LastWords(str(said["message"]), bool(said["user"]))
    except (ValueError, KeyError, TypeError):
        return None
