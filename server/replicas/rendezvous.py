"""Which replica has the requests of a key: highest random weight (Thaler and Ravishankar, 1998), as long as it is not full.

Whoever knows the same replicas comes to the same answer; a replica that comes or goes moves only the keys that it gets or had.
Of a key that nobody has read anything of yet, a replica with much more to do than the others is not asked: hashes alone
would give one of two replicas an eighth more than its half of 64 answers, and all would wait for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from server.replicas.affinity import ANYWHERE

SLACK = 16
"""A replica has much more to do than the others from ``full / SLACK``, and at least ``LEAST_SLACK``, requests over the mean."""

LEAST_SLACK = 2
"""Where little is under way, steps take as long for one more, and only the cache counts."""

SHARED_SLACK = 2
"""The same where there are several gateways: none knows where another one sent a key instead, and looks for it where its hash
says. With ``SLACK`` a twentieth of the turns of 64 conversations at once would be where nothing of them is kept.
"""


def slack(full: int, gateways: int) -> int:
    """How many requests over the mean are much more, for ``order``."""
    return max(LEAST_SLACK, full // (SLACK if gateways == 1 else SHARED_SLACK))


def ranked(key: str, replicas: Iterable[str]) -> list[str]:
    """The replicas as the key prefers them, the best first."""
    return sorted(replicas, key=lambda replica: _weight(key, replica), reverse=True)


def order(
    key: str, loads: Mapping[str, int], full: int, home: str | None = None, more: int | None = None
) -> list[str]:
    """The replicas in the order in which a request is to be offered to them.

    Args:
        key: of requests that are alike; for ``ANYWHERE`` the least loaded come first.
        loads: requests under way, by replica.
        full: under way on a replica, from which on another one waits for its turn there: its key goes to the next that it prefers
            and that is not full. Where all are, the least loaded come first.
        home: the replica that is known to have had such requests: the first as long as it is there and not full.
        more: requests over the mean that are much more; None: as for a gateway that is alone (see ``slack``).
    """
    ranks = {replica: rank for rank, replica in enumerate(ranked(key, loads))}
    much = slack(full, 1) if more is None else more
    crowded = min(full, sum(loads.values()) / max(1, len(loads)) + much)

    def place(replica: str) -> tuple[int, int, int]:
        load = loads[replica]
        if key != ANYWHERE and replica == home and load < full:
            return 0, 0, 0
        if key != ANYWHERE and load < crowded:
            return 1, 0, ranks[replica]
        return 2, load, ranks[replica]

    return sorted(loads, key=place)


def _weight(key: str, replica: str) -> bytes:
    return hashlib.blake2b(f"{len(key)}:{key}{replica}".encode(), digest_size=8).digest()
