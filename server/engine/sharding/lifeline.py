"""Who of a group of processes is still there: a connection of each with rank 0 that breaks when its process ends.

The kernel closes it whatever ended the process. What is stopped, cut off or without its machine is silent instead: every second
each says that it is there, in a thread of its own, so that one that is merely slow, or waits, is heard all the same. Nothing else
is said but a process's last words, and that rank 0 dismisses the others.
"""

import contextlib
import ipaddress
import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

PATIENCE = 60.0
"""Seconds that the others have to connect, once every process has been heard of."""

HELLO = 5.0
"""Seconds that who has connected has to say who it is."""

BEAT = 1.0
"""Seconds from one sign of life to the next."""

WHILE_LOADING, WHILE_SERVING = 60, 7
"""Beats that may fail to come. What loads a model may hold everything else up for a while."""

LONGEST = 4096
"""Bytes of anyone's last words."""

DISMISSED = b'{"dismissed":true}'


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
        self._missable = WHILE_LOADING

    def watch(self, on_end: OnEnd, on_dismissal: Callable[[], None] = lambda: None) -> None:
        """From now on, hear of the end of those at the other ends, and on other ranks than 0 of the dismissal; both are called in
        threads of this object's own. One that is silent for too long has ended too, whatever it still does."""
        threading.Thread(target=self._beat, name="lifeline", daemon=True).start()
        for peer, connection in self._peers.items():
            threading.Thread(
                target=self._listen,
                args=(peer, connection, on_end, on_dismissal),
                name=f"lifeline-{peer}",
                daemon=True,
            ).start()

    def loaded(self) -> None:
        """Nothing holds the others up any more: who is silent has ended sooner."""
        self._missable = WHILE_SERVING

    def say(self, words: LastWords) -> None:
        """Tell rank 0 why this process ends."""
        _send(self._peers[0], _told(words))

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
        for line in self._lines(connection):
            if self._rank != 0 and line == DISMISSED:
                self._leaving.set()
                on_dismissal()
            elif words := _words(line):
                on_end(peer, words)  # whatever it still does
                return
        if not self._leaving.is_set():
            on_end(peer, None)

    def _lines(self, connection: socket.socket) -> Iterator[bytes]:
        """What is said at the other end, until there is nobody. At the last the words of one that has fallen silent."""
        missed, begun = 0, b""
        while True:
            try:
                said = connection.recv(LONGEST)
            except TimeoutError:
                # Beats of this process are counted, not seconds: if the machine sleeps, so does whoever counts.
                missed += 1
                if missed > self._missable:
                    yield _told(
                        LastWords(f"nothing has been heard of it for {missed * BEAT:g} s", user=False)
                    )
                    return
                continue
            except OSError:
                return
            if not said:
                return
            missed = 0
            *lines, begun = (begun + said).split(b"\n")
            yield from filter(None, lines)

    def _beat(self) -> None:
        while not self._leaving.wait(BEAT):
            for connection in self._peers.values():
                _send(connection, b"")


def _accept(store: Store, size: int, host: str) -> dict[int, socket.socket]:
    """A connection with each of the others, who show that they read the same store."""
    with _listening(host, size) as listening:
        token = secrets.token_hex(16)
        store.set("genarm/lifeline", f"{listening.getsockname()[1]} {token}")
        listening.settimeout(PATIENCE)
        peers: dict[int, socket.socket] = {}
        while len(peers) < size - 1:
            connection, _ = listening.accept()
            rank = _who(connection, token, size)
            if rank is None:
                connection.close()
            else:
                connection.settimeout(BEAT)
                peers[rank] = connection
        return peers


def _listening(host: str, size: int) -> socket.socket:
    """Where the others reach ``host``: on loopback only, if that is what it says."""
    if _is_loopback(host):
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(address[0]), 0), family=family, backlog=size)
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", 0), family=family, backlog=size, dualstack_ipv6=both)


def _is_loopback(host: str) -> bool:
    """Not what a name means here: a machine's own may be 127.0.1.1 to itself and something else to the others."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _who(connection: socket.socket, token: str, size: int) -> int | None:
    """The rank that has connected; None where it is a stranger."""
    connection.settimeout(HELLO)
    try:
        # Unbuffered: what comes behind the line is for whoever listens later.
        hello = connection.makefile("rb", buffering=0).readline(LONGEST).decode("ascii", "replace").split()
    except OSError:
        return None
    if len(hello) != 2 or not secrets.compare_digest(hello[0].encode(), token.encode()):
        return None
    return int(hello[1]) if hello[1] in map(str, range(1, size)) else None


def _connect(store: Store, rank: int, host: str) -> socket.socket:
    port, token = store.get("genarm/lifeline").decode().split()
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE)
    _send(connection, f"{token} {rank}".encode())
    connection.settimeout(BEAT)
    return connection


def _send(connection: socket.socket, line: bytes) -> None:
    try:
        connection.sendall(line + b"\n")
    except OSError:
        return  # it is gone, and whoever listens to it hears that


def _told(words: LastWords) -> bytes:
    return json.dumps({"message": words.message[: LONGEST // 8], "user": words.user}).encode()


def _words(line: bytes) -> LastWords | None:
    try:
        said = json.loads(line)
        return LastWords(str(said["message"]), bool(said["user"]))
    except (ValueError, KeyError, TypeError):
        return None
