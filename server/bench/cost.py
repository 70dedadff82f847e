"""What a decode step costs more than another: times of both, measured in turn, against what it should."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.bench.result import Row
from server.bench.steady import Steady


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a step of ours and of the peer's, one sample a run: the median step of it.

    ``expected``: the ratio that the work itself says, 1 where none is computed; ``bar``: what the ratio of the medians may be
    at most, as a multiple of ``expected``; None: none.
    """

    name: str
    ours: str
    peer: str
    expected: float
    bar: float | None
    our_seconds: tuple[float, ...]
    peer_seconds: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of ours over median of the peer's."""
        return statistics.median(self.our_seconds) / statistics.median(self.peer_seconds)

    @property
    def reached(self) -> bool:
        """Whether it costs no more than the bar allows."""
        return self.bar is None or self.ratio / self.expected <= self.bar

    def row(self) -> Row:
        """Medians of both sides in milliseconds, their ratio and the computed one, and the ratios of single runs."""
        ratios = [ours / peer for ours, peer in zip(self.our_seconds, self.peer_seconds, strict=True)]
        computed = "" if self.expected == 1 else f" = {self.ratio / self.expected:.2f} x {self.expected:.2f}"
        return Row(
            self.name,
            f"{self.ours} {1000 * statistics.median(self.our_seconds):.1f} ms",
            f"{self.peer} {1000 * statistics.median(self.peer_seconds):.1f} ms",
            f"{self.ratio:.2f}{computed}",
            f"{min(ratios):.2f} – {max(ratios):.2f}",
            "none" if self.bar is None else f"≤ {self.bar:g}" + (" x" if computed else ""),
        )

    def record(self) -> Mapping[str, Any]:
        """All samples."""
        return {
            "name": self.name,
            "ours": self.ours,
            "peer": self.peer,
            "unit": "seconds of a decode step",
            "our_seconds": self.our_seconds,
            "peer_seconds": self.peer_seconds,
            "ratio": self.ratio,
            "expected": self.expected,
            "measured_over_expected": self.ratio / self.expected,
            "bar": self.bar,
        }


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps to be timed: what they are called, and the responses that take them."""

    label: str
    steady: Steady


def in_turn(
    ours: Steps, peer: Steps, runs: int, tick: Callable[[], object]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The median step of every run, ours and the peer's: both take the same number of steps, alternating which goes first.

    Their ``steady.steps`` are shared out among the runs and one run that does not count.
    """
    each = ours.steady.steps // (runs + 1)
    seconds: Mapping[str, list[float]] = {"ours": [], "peer": []}
    sides: Sequence[tuple[str, Steps]] = (("ours", ours), ("peer", peer))
    for _, side in sides:
        side.steady.begin()
    for run in range(runs + 1):
        for name, side in sides if run % 2 else reversed(sides):
            median = statistics.median(side.steady.run(each))
            if run:
                seconds[name].append(median)
        tick()
    for _, side in sides:
        side.steady.end()
    return tuple(seconds["ours"]), tuple(seconds["peer"])
