"""Comparisons of two ways to do the same work, run in turn so that a noisy machine is noisy for both."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from server.bench.result import Row


class Side(NamedTuple):
    """One way to do the work: what it is called, the work itself, and how many tokens it writes.

    ``warm``: what is done before the first run that counts, in place of the work where that is long.
    """

    label: str
    run: Callable[[], object]
    tokens: int
    warm: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rates of ours and the peer's in ``unit``, one sample a run; ``bar`` is what the ratio of their medians has to reach, 0 for
    none."""

    name: str
    ours: str
    peer: str
    bar: float
    our_rates: tuple[float, ...]
    peer_rates: tuple[float, ...]
    unit: str = "output tokens per second"

    @property
    def ratio(self) -> float:
        """Median of ours over median of the peer's."""
        return statistics.median(self.our_rates) / statistics.median(self.peer_rates)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest ratio of runs made one after the other."""
        ratios = [ours / peer for ours, peer in zip(self.our_rates, self.peer_rates, strict=True)]
        return min(ratios), max(ratios)

    @property
    def reached(self) -> bool:
        """Whether the ratio is at least the bar."""
        return self.ratio >= self.bar

    def row(self) -> Row:
        """Medians of both sides, their ratio, and the ratios of single runs."""
        low, high = self.spread
        return Row(
            self.name,
            f"{self.ours} {statistics.median(self.our_rates):.0f}",
            f"{self.peer} {statistics.median(self.peer_rates):.0f}",
            f"{self.ratio:.2f}",
            f"{low:.2f} – {high:.2f}",
            f"≥ {self.bar:g}" if self.bar else "none",
        )

    def record(self) -> Mapping[str, Any]:
        """All samples."""
        return {
            "name": self.name,
            "ours": self.ours,
            "peer": self.peer,
            "unit": self.unit,
            "our_rates": self.our_rates,
            "peer_rates": self.peer_rates,
            "ratio": self.ratio,
            "bar": self.bar,
        }


def compare(
    name: str, ours: Side, peer: Side, runs: int, bar: float, tick: Callable[[], object]
) -> Comparison:
    """Run both sides ``runs`` times, alternating which goes first, after one run of each that does not count."""
    (comparison,) = compare_all(ours, {name: peer}, runs, bar, tick)
    return comparison


def compare_all(
    ours: Side, peers: Mapping[str, Side], runs: int, bar: float, tick: Callable[[], object]
) -> list[Comparison]:
    """:func:`compare` with several peers, by the name of the comparison; one run of ours stands against one of each."""
    sides = [ours, *peers.values()]
    rates: dict[Side, list[float]] = {side: [] for side in sides}
    for side in sides:
        (side.warm or side.run)()
    tick()
    for number in range(runs):
        for side in sides if number % 2 == 0 else reversed(sides):
            started = time.perf_counter()
            side.run()
            rates[side].append(side.tokens / (time.perf_counter() - started))
        tick()
    return [
        Comparison(name, ours.label, peer.label, bar, tuple(rates[ours]), tuple(rates[peer]))
        for name, peer in peers.items()
    ]
