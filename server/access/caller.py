"""Whoever sends a request, as the server knows them by their key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Range = tuple[float | None, float | None]
"""The least and the greatest weight allowed; None is no bound."""


@dataclass(frozen=True)
class Caller:
    """Whoever sends a request.

    Attributes:
        owner: hex digest of the key, "" without keys.
        name: of the key in its file, "anonymous" without keys.
        admin: whether it may change what is served.
        max_concurrent: choices under way at once; None is no bound of its own.
        presets: those it may name; None: all.
        ranges: allowed weight by preference name, the deployment's and the key's together.
    """

    owner: str = ""
    name: str = "anonymous"
    admin: bool = False
    max_concurrent: int | None = None
    presets: frozenset[str] | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
