"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]
"""Whether the server can be served all the same; a problem says that it cannot."""


@dataclass(frozen=True)
class Check:
    """``name``: what was looked at; ``detail``: what was found, one line."""

    name: str
    detail: str
    level: Level = "ok"
