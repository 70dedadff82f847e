"""Which replica has the requests of a key: highest random weight (Thaler and Ravishankar, 1998), as long as it is not full.

Whoever knows the same replicas comes to the same answer; a replica that comes or goes moves only the keys that it gets or had.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from server.replicas.affinity import ANYWHERE


def ranked(key: str, replicas: Iterable[str]) -> list[str]:
    """The replicas as the key prefers them, the best first."""
    return sorted(replicas, key=lambda replica: _weight(key, replica), reverse=True)


def order(key: str, loads: Mapping[str, int], full: int) -> list[str]:
    """The replicas in the order in which a request is to be offered to them.

    Args:
        key: of requests that are alike; for ``ANYWHERE`` the least loaded come first.
        loads: requests under way, by replica.
        full: under way on a replica, from which on another one waits for its turn there: its key goes to the next that it prefers
            and that is not full. Where all are, the least loaded come first.
    """
    ranks = {replica: rank for rank, replica in enumerate(ranked(key, loads))}

    def place(replica: str) -> tuple[int, int]:
        is_equal = key != ANYWHERE and loads[replica] < full
        return (-1 if is_equal else loads[replica], ranks[replica])

    return sorted(loads, key=place)


def _weight(key: str, replica: str) -> bytes:
    return hashlib.blake2b(f"{len(key)}:{key}{replica}".encode(), digest_size=8).digest()
