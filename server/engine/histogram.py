"""How often values of each size came, as Prometheus has it."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HistogramCounts:
    """A histogram at one moment.

    ``counts``: of each of ``bounds``, the values up to it and above the one before; then those above all. ``total``: their sum.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """Values there were."""
        return sum(self.counts)


class Histogram:
    """Counts values by size; ``bounds`` go up."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    @property
    def now(self) -> HistogramCounts:
        """What there has been so far."""
        return HistogramCounts(self._bounds, tuple(self._counts), self._total)
