"""Which replica has read what the requests of a key begin with, as far as this gateway has sent them there."""

from __future__ import annotations

from collections import OrderedDict

from server.replicas.affinity import ANYWHERE

KEYS = 65_536
"""Keys that are remembered, some 200 bytes each; who was asked for longest ago is forgotten first."""


class Homes:
    """A replica for each of the last ``most`` keys."""

    def __init__(self, most: int = KEYS) -> None:
        self._most = most
        self._replicas: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._replicas)

    def of(self, key: str) -> str | None:
        """The key's replica, which may be gone by now; None where nothing is remembered."""
        if key in self._replicas:
            self._replicas.move_to_end(key)
        return self._replicas.get(key)

    def settle(self, key: str, replica: str) -> None:
        """The key is at home there from now on; ``ANYWHERE`` never is."""
        if key == ANYWHERE:
            return
        self._replicas[key] = replica
        self._replicas.move_to_end(key)
        if len(self._replicas) > self._most:
            self._replicas.popitem(last=False)
