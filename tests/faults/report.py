"""What a soak found, for people and as a file."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from arm_models.whole_file import write_whole
from server.bench.machine import machine


@dataclass(frozen=True)
class Finding:
    """One line of a soak's table: what was seen, what is allowed, and whether it is."""

    name: str
    seen: str
    allowed: str
    good: bool


@dataclass(frozen=True)
class Report:
    """Attributes:
    plan: how much was asked, by whom.
    outcomes: by kind of request, how often which came of it.
    strangers: how often they were told what.
    health: seconds of GET /health, by percentile, and the longest.
    memory: MiB that were resident, each a sixtieth of the time after the one before.
    """

    findings: Sequence[Finding]
    plan: Mapping[str, Any] = field(default_factory=dict)
    outcomes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    strangers: Mapping[str, int] = field(default_factory=dict)
    health: Mapping[str, float] = field(default_factory=dict)
    memory: Sequence[int] = ()

    @property
    def bad(self) -> list[str]:
        """Names of the findings that must not be."""
        return [one.name for one in self.findings if not one.good]

    def table(self) -> str:
        """The findings, a line each."""
        lines = [
            ("", "what", "seen", "allowed"),
            *((("no ", "ok ")[one.good], one.name, one.seen, one.allowed) for one in self.findings),
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(4)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def write(self, file: Path, command: str) -> None:
        """All of it as JSON, with the command that it came from."""
        content = {"command": command, "machine": machine(), "system": platform.release(), **asdict(self)}
        write_whole(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
