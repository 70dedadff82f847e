"""How a step's time grows with what it is asked for: slopes between neighbouring cells of a table."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from server.bench.result import Row

Axis = Literal["batch", "context", "rewards"]
AXES: tuple[Axis, ...] = ("batch", "context", "rewards")
BAR = 1.25
"""Slope that still counts as linear: what a noisy machine adds to one cell of two."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Median seconds of a decode step of ``batch`` responses with ``context`` tokens each and so many ``rewards`` of a
    ``kind``: "full" models or "lora" adapters; the base alone is "full"."""

    kind: str
    rewards: int
    batch: int
    context: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Slope:
    """From cell ``low`` to cell ``high``, which differ along ``axis`` only: d log(time) / d log(size).

    1: twice the size takes twice the time; above 1 it grows faster than that. The size along "rewards" is the members that run.
    """

    axis: Axis
    low: Cell
    high: Cell

    @property
    def value(self) -> float:
        """The slope."""
        times = math.log(self.high.seconds / self.low.seconds)
        return times / math.log(size(self.high, self.axis) / size(self.low, self.axis))


@dataclass(frozen=True, slots=True)
class Growth:
    """The steepest slope along an axis among ``count`` of them."""

    axis: Axis
    worst: Slope
    count: int
    bar: float = BAR

    @property
    def reached(self) -> bool:
        """Whether nothing grows faster than linearly."""
        return self.worst.value <= self.bar

    def row(self) -> Row:
        """The slope and between which cells it is."""
        return Row(
            f"growth with {self.axis}",
            f"{_words(self.worst.high)} {1000 * self.worst.high.seconds:.1f} ms",
            f"{_words(self.worst.low)} {1000 * self.worst.low.seconds:.1f} ms",
            f"slope {self.worst.value:.2f}",
            f"steepest of {self.count}",
            f"≤ {self.bar:g}",
        )

    def record(self) -> Mapping[str, Any]:
        """The slope."""
        return {
            "name": f"growth with {self.axis}",
            "unit": "d log(seconds) / d log(size), steepest",
            "slope": self.worst.value,
            "between": [_words(self.worst.low), _words(self.worst.high)],
            "slopes": self.count,
            "bar": self.bar,
        }


def size(cell: Cell, axis: Axis) -> int:
    """How large a cell is along an axis."""
    if axis == "rewards":
        return cell.rewards + 1
    return cell.batch if axis == "batch" else cell.context


def slopes(cells: Sequence[Cell], axis: Axis) -> list[Slope]:
    """From every cell to the next that is at least twice as large along ``axis`` and else the same.

    The base alone begins the line of each kind of rewards.
    """
    lines: dict[tuple[object, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        others = [value for other in AXES if other != axis for value in (size(cell, other),)]
        kinds = {each.kind for each in cells} if axis == "rewards" and not cell.rewards else {cell.kind}
        for kind in kinds:
            lines[(kind, *others)].append(cell)
    found = []
    for line in lines.values():
        ordered = sorted(line, key=lambda cell: size(cell, axis))
        for number, low in enumerate(ordered):
            high = next((one for one in ordered[number:] if size(one, axis) >= 2 * size(low, axis)), None)
            if high is not None:
                found.append(Slope(axis, low, high))
    return found


def growths(cells: Sequence[Cell]) -> list[Growth]:
    """The steepest slope along every axis on which cells differ."""
    along = {axis: slopes(cells, axis) for axis in AXES}
    return [
        Growth(axis, max(found, key=lambda slope: slope.value), len(found))
        for axis, found in along.items()
        if found
    ]


def _words(cell: Cell) -> str:
    kind = f" {cell.kind}" if cell.rewards else ""
    return f"{cell.batch} x {cell.context}, {cell.rewards}{kind}"
