"""What a scenario found."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol


class Row(NamedTuple):
    """A line of the printed table, as text."""

    name: str
    ours: str
    peer: str
    value: str
    spread: str
    bar: str


class Result(Protocol):
    """One figure with the samples behind it, and whether it is as good as it has to be."""

    @property
    def reached(self) -> bool:
        """Whether the bar is reached."""

    def row(self) -> Row:
        """For the table."""

    def record(self) -> Mapping[str, Any]:
        """For the file: everything that was measured, as JSON."""
