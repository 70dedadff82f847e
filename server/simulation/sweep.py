"""Many simulations: every number of replicas under every policy, share of guided traffic and load. What is done is kept."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from arm_models.errors import UserError
from arm_models.whole_file import write_whole
from server.simulation.cluster import Cluster, Deployment
from server.simulation.measured import Measured
from server.simulation.outcome import Outcome, Window
from server.simulation.routing import POLICIES, Pool
from server.simulation.traffic import TrafficSettings, draw_crowd, draw_traffic

WARM = 0.25
"""Of the time in which sessions begin, what is not counted: until then those that begin have no company of those that go on."""

SATURATION = 400
"""Requests, at least, from which the capacity of one replica is told; at least 16 for each of its places."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulation: ``load`` is the requests that come, as a share of those that the replicas answer where each always has as
    many users as places."""

    replicas: int
    policy: str
    guided: float
    load: float

    @property
    def name(self) -> str:
        """In the file."""
        return f"{self.replicas} x {self.policy}, guided {self.guided:g}, load {self.load:g}"


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica answers that is never idle: requests and output tokens a second."""

    requests: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated: cells, and how many requests for each replica, ``least`` and ``most`` in a cell altogether."""

    cells: tuple[Cell, ...]
    settings: TrafficSettings
    requests: int
    most: int
    seed: int
    least: int = 1

    def turns(self, cell: Cell) -> int:
        """Requests of a cell."""
        return min(max(self.least, self.requests * cell.replicas), self.most)


def grid(
    replicas: tuple[int, ...], policies: tuple[str, ...], guided: tuple[float, ...], loads: tuple[float, ...]
) -> tuple[Cell, ...]:
    """Every one with every other."""
    return tuple(Cell(*each) for each in product(replicas, policies, guided, loads))


def cross(
    replicas: tuple[int, ...], policies: tuple[str, ...], guided: tuple[float, ...], loads: tuple[float, ...]
) -> tuple[Cell, ...]:
    """For each number of replicas, every policy under the middle one of the shares and of the loads, and every share with every
    load under the last policy; of one replica under that alone, since there is nothing to choose."""
    cells: list[Cell] = []
    for count in replicas:
        if count > 1:
            cells += grid((count,), policies, (middle(guided),), (middle(loads),))
        cells += grid((count,), policies[-1:], guided, loads)
    return tuple(dict.fromkeys(cells))


def middle(values: Collection[float]) -> float:
    """Of different ones, the upper one where there are two."""
    return sorted(set(values))[len(set(values)) // 2]


class Simulations:
    """Cells of one measured machine.

    Args:
        together: take alike steps together.
    """

    def __init__(self, measured: Measured, plan: Plan, *, together: bool = True) -> None:
        self._measured = measured
        self._plan = plan
        self._together = together
        self._cost = measured.cost()
        self.capacity = lru_cache(maxsize=None)(self._capacity)

    def deployment(self, replicas: int) -> Deployment:
        """So many, each on a machine of its own."""
        measured = self._measured
        return Deployment(replicas, measured.stores, measured.limits, self._cost, measured.own_host())

    def run(self, cell: Cell, tick: Callable[[], object] | None = None) -> Outcome:
        """Simulate a cell."""
        settings = replace(self._plan.settings, guided=cell.guided)
        rate = cell.load * cell.replicas * self.capacity(cell.guided).requests
        traffic = draw_traffic(settings, rate, self._plan.turns(cell), self._plan.seed)
        last = traffic.starts[-1]
        router = POLICIES[cell.policy](self._pool(cell.replicas))
        window = Window(WARM * last, last) if last else Window()
        deployment = self.deployment(cell.replicas)
        return Cluster(deployment, traffic, router, window=window, together=self._together, tick=tick).run()

    def _pool(self, replicas: int) -> Pool:
        return Pool(replicas, self._measured.limits.max_sequences, self._plan.seed)

    def _capacity(self, guided: float) -> Capacity:
        """Of one replica, by simulation: as many users as it has places, none of whom thinks."""
        places = self._measured.limits.max_sequences
        settings = replace(self._plan.settings, guided=guided)
        traffic = draw_crowd(settings, places, max(SATURATION, 16 * places), self._plan.seed)
        router = POLICIES["random"](self._pool(1))
        return Capacity(*Cluster(self.deployment(1), traffic, router, together=self._together).run().steady())


class Results:
    """What cells have come to, in a file that is written whenever one is done.

    Args:
        about: what they depend on; a file with anything else is not gone on from.
        command: the line that makes them; those of a file that is gone on from come before it.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any], command: str = "") -> None:
        self.cells: dict[str, dict[str, Any]] = {}
        self._path = path
        self._command = command
        self._about = json.loads(json.dumps(about))

    def resume(self) -> None:
        """Go on from the file, if it is there.

        Raises:
            UserError: it cannot be read, is no such file, or was made of something else.
        """
        if self._path is None or not self._path.exists():
            return
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            about, cells, command = kept["about"], dict(kept["cells"]), str(kept["command"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"--resume: {self._path} is no file that genarm simulate wrote") from None
        if about != self._about:
            differ = ", ".join(key for key in self._about if about.get(key) != self._about[key])
            raise UserError(f"--resume: {self._path} was made with another {differ or 'command'}")
        self.cells = cells
        is_known = self._command in command.split(" && ")
        self._command = command if is_known else f"{command} && {self._command}"

    def add(self, cell: Cell, capacity: Capacity, outcome: Outcome) -> None:
        """Keep what a cell came to."""
        self.cells[cell.name] = {
            **asdict(cell),
            "capacity": asdict(capacity),
            **outcome.summary(),
        }
        if self._path is not None:
            record = {"command": self._command, "about": self._about, "cells": self.cells}
            write_whole(self._path, json.dumps(record, indent=1) + "\n")
