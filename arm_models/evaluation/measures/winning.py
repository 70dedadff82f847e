"""Win rates from verdicts: a win counts 1, a tie one half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIN, TIE, LOSS = 1.0, 0.5, 0.0


@dataclass(frozen=True, slots=True)
class Record:
    """How often a side won, tied and lost."""

    wins: int
    ties: int
    losses: int

    @property
    def rate(self) -> float:
        """(wins + ties / 2) / all."""
        return (self.wins + self.ties / 2) / (self.wins + self.ties + self.losses)


def record(points: Sequence[float]) -> Record:
    """Count verdicts given as 1, ½ and 0; raises ``ValueError`` for none, and for other values."""
    counted = Record(points.count(WIN), points.count(TIE), points.count(LOSS))
    if not points or counted.wins + counted.ties + counted.losses != len(points):
        raise ValueError(
            "verdicts are 1 for a win, 0.5 for a tie and 0 for a loss, and there is at least one"
        )
    return counted


def swapped(first: float | None, second: float | None) -> float:
    """One verdict from two of the same pair, its sides swapped in the second: both on our side, in points for us.

    They agree: that. They disagree, or one could not be read (None): a tie.
    """
    return first if first is not None and first == second else TIE
