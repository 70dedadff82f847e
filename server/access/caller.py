"""What is known of whoever sends a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.access.ranges import Range


@dataclass(frozen=True)
class Caller:
    """Whoever sends a request, and what they may do.

    Attributes:
        owner: hex digest of the key; "" without keys. Requests, kept prompts and places are told apart by it.
        name: the key's name in its file; "anonymous" without keys.
        admin: whether the deployment may be changed.
        max_concurrent: choices under way at once; None is no bound of the caller's own.
        presets: those that may be asked for by model id; None: all.
        ranges: allowed weight α/β by preference name, the deployment's and the key's together.
    """

    owner: str = ""
    name: str = "anonymous"
    admin: bool = False
    max_concurrent: int | None = None
    presets: frozenset[str] | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def may_ask_for(self, preset: str) -> bool:
        """Whether the preset of this name is there for the caller."""
        return self.presets is None or preset in self.presets
