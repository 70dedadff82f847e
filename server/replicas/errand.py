"""Where a request is to go, as the gateway tells the router: the first argument of every call of a replica."""

from __future__ import annotations

from typing import NamedTuple

from server.replicas.affinity import ANYWHERE


class Errand(NamedTuple):
    """``replica``: the one that it has to be, by name; else any that is not ``shunned``, chosen by ``key`` (see ``affinity``)."""

    key: str = ANYWHERE
    replica: str | None = None
    shunned: frozenset[str] = frozenset()


class Gone(Exception):
    """The replica that it was to go to is no more, or takes nothing any more; ``name``: that one's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
