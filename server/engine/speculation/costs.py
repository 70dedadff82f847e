"""What a forward costs by the rows it has: measured, never assumed."""

from dataclasses import dataclass

NEWEST = 0.1
"""How much the newest of many measurements counts; of fewer than 10, all count alike."""

OUTLIER = 4.0
"""Measurements count as this many times the average at most: a machine that was busy elsewhere says nothing about us."""


@dataclass(slots=True)
class _Mean:
    rows: float = 0.0
    seconds: float = 0.0
    count: int = 0

    def add(self, rows: int, seconds: float) -> None:
        self.count += 1
        share = max(1 / self.count, NEWEST)
        self.rows += share * (rows - self.rows)
        self.seconds += share * (seconds - self.seconds)


class Costs:
    """Seconds by rows: one decayed average for each power of two."""

    def __init__(self) -> None:
        self._means: dict[int, _Mean] = {}

    def count(self, rows: int) -> int:
        """Measurements with about so many rows."""
        mean = self._means.get(_bucket(rows))
        return mean.count if mean else 0

    def add(self, rows: int, seconds: float) -> float:
        """One measurement; returns the seconds that count."""
        mean = self._means.setdefault(_bucket(rows), _Mean())
        if mean.count > 1:
            seconds = min(seconds, OUTLIER * mean.seconds)
        mean.add(rows, seconds)
        return seconds

    def at(self, rows: int) -> float | None:
        """Expected seconds: on a line between the nearest averages; outside them, the nearest; None where there are none."""
        below = max((mean for mean in self._means.values() if mean.rows <= rows), key=_rows, default=None)
        above = min((mean for mean in self._means.values() if mean.rows >= rows), key=_rows, default=None)
        if below is None or above is None or below is above:
            nearest = below or above
            return nearest.seconds if nearest else None
        share = (rows - below.rows) / (above.rows - below.rows)
        return below.seconds + share * (above.seconds - below.seconds)


def _rows(mean: _Mean) -> float:
    return mean.rows


def _bucket(rows: int) -> int:
    return (rows - 1).bit_length()
