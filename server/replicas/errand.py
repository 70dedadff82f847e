"""Where a request is to go, as the gateway tells the router: the first argument of every call of a replica."""

from __future__ import annotations

from typing import NamedTuple

from server.replicas.affinity import ANYWHERE


class Errand(NamedTuple):
    """``replica``: the one that it has to be, by name; else any, chosen by ``key`` (see ``affinity``)."""

    key: str = ANYWHERE
    replica: str | None = None


class Gone(Exception):
    """The replica that it has to be is no more."""
