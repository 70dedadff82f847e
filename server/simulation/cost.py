"""Seconds of a step, fitted to measured ones.

A step's seconds are a sum over its members, each with a part

- for running at all (its weights are read, its forward is called),
- for its tokens: a line with knees, since a few tokens ride along with the weights and many do not,
- for its rows with logits,
- for the context over which single tokens attend, and for that over which chunks of prompts do,
- for what is written to put its cache in order.

No part is negative, so more work never takes less time. Members of one *class* (the base; the rewards, where they are alike)
share their parts. The fit minimises errors relative to what was measured: a step of 10 ms counts as much as one of 500. What
putting caches in order takes is then found by seconds, since such a step may take ten times as long as another that writes as
much (memory that is new to the process comes from the system), and it is what many of them take together that counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from server.simulation.least_squares import Array, non_negative
from server.simulation.load import Load, MemberLoad

KNEES = (4, 16, 64, 256)
"""Tokens at which the line may bend, as far as there are measured steps beyond them."""

_PARTS = ("running", "draws", "attended", "read", "moved")


@dataclass(frozen=True, slots=True)
class StepSample:
    """A measured step: what it had to do, and its seconds."""

    load: Sequence[MemberLoad]
    seconds: float


@dataclass(frozen=True, slots=True)
class ClassCost:
    """Seconds of one member: for ``running``, for a row with logits, for a token of context attended over by single tokens
    (``attended``) and by chunks (``read``), for a token of its cache that is written elsewhere (``moved``), and for a token it
    computes (``slopes``) up to each of the ``knees`` and beyond."""

    running: float
    draws: float
    attended: float
    read: float
    moved: float
    knees: tuple[int, ...]
    slopes: tuple[float, ...]

    def tokens(self, count: int) -> float:
        """Seconds for so many tokens."""
        return float(np.dot(_ramps(count, self.knees), self.slopes))


@dataclass(frozen=True, slots=True)
class Errors:
    """How far the fit is from measured steps: relative errors, absolute (``median``, ``p95``), and of the sum of all seconds with
    its sign (``total``: above 0 the fit is slower)."""

    count: int
    median: float
    p95: float
    total: float


class StepCost:
    """Seconds of steps.

    Args:
        classes: by member's number, its class.
        costs: by class.
        reach: tokens of the largest measured step of each class; beyond it the last slope is assumed to go on.
    """

    def __init__(
        self,
        classes: Sequence[str],
        costs: Mapping[str, ClassCost],
        reach: Mapping[str, int] | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.costs = dict(costs)
        self.reach = dict(reach or {})
        self._tokens: dict[str, list[float]] = {name: [] for name in self.costs}

    def seconds(self, load: Load) -> float:
        """Seconds of a step; 0 where nobody has anything to do."""
        whole = 0.0
        for name, own in zip(self.classes, load, strict=True):
            cost = self.costs[name]
            whole += cost.moved * own.moved
            if own.tokens:
                whole += cost.running + self._of_tokens(name, own.tokens)
                whole += cost.draws * own.draws + cost.attended * own.attended + cost.read * own.read
        return whole

    def beyond(self, load: Load) -> bool:
        """Whether a member computes more tokens than in any measured step."""
        return any(
            own.tokens > self.reach.get(name, own.tokens)
            for name, own in zip(self.classes, load, strict=True)
        )

    def errors(self, samples: Sequence[StepSample]) -> Errors:
        """Against measured steps. Raises ``ValueError`` where there are none."""
        if not samples:
            raise ValueError("no measured steps")
        fitted = np.array([self.seconds(sample.load) for sample in samples])
        measured = np.array([sample.seconds for sample in samples])
        relative = np.abs(fitted / measured - 1)
        return Errors(
            len(samples),
            float(np.median(relative)),
            float(np.quantile(relative, 0.95)),
            float(fitted.sum() / measured.sum() - 1),
        )

    def scaled(self, factor: float) -> "StepCost":
        """The same machine, so many times slower."""
        costs = {
            name: ClassCost(
                one.running * factor,
                one.draws * factor,
                one.attended * factor,
                one.read * factor,
                one.moved * factor,
                one.knees,
                tuple(slope * factor for slope in one.slopes),
            )
            for name, one in self.costs.items()
        }
        return StepCost(self.classes, costs, self.reach)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "classes": list(self.classes),
            "reach": self.reach,
            "seconds": {
                name: {part: getattr(cost, part) for part in _PARTS}
                | {"knees": list(cost.knees), "slopes": list(cost.slopes)}
                for name, cost in self.costs.items()
            },
        }

    def _of_tokens(self, name: str, count: int) -> float:
        """From a table, since a simulation asks millions of times."""
        table = self._tokens[name]
        while len(table) <= count:
            table.append(self.costs[name].tokens(len(table)))
        return table[count]


def fit(samples: Sequence[StepSample], classes: Sequence[str]) -> StepCost:
    """The costs that come closest to measured steps.

    Args:
        classes: by member's number, its class.

    Raises:
        ValueError: there are no steps, a step's time is not above 0, or a member of a class was never measured.
    """
    if any(not sample.seconds > 0 for sample in samples):
        raise ValueError("a measured step took no time")
    names = list(dict.fromkeys(classes))
    reach = {
        name: max(
            (own.tokens for sample in samples for own in _of_class(sample.load, classes, name)), default=0
        )
        for name in names
    }
    for name, most in reach.items():
        if not most:
            raise ValueError(f"no measured step in which a member of class {name!r} runs")
    knees = {name: tuple(knee for knee in KNEES if 2 * knee <= most) for name, most in reach.items()}
    rows = [
        [part for name in names for part in _features(_of_class(sample.load, classes, name), knees[name])]
        for sample in samples
    ]
    seconds = np.array([sample.seconds for sample in samples])
    matrix = np.array(rows, dtype=float) / seconds[:, None]
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    found = non_negative(matrix / scale, np.ones(len(samples))) / scale
    costs, start = {}, 0
    for name in names:
        stop = start + len(_PARTS) + len(knees[name]) + 1
        running, draws, attended, read, _, *slopes = found[start:stop].tolist()
        costs[name] = ClassCost(running, draws, attended, read, 0.0, knees[name], tuple(slopes))
        start = stop
    return _by_seconds(StepCost(classes, costs, reach), samples)


def _by_seconds(fitted: StepCost, samples: Sequence[StepSample]) -> StepCost:
    """The same with a part for moving, and so many times as long, as comes closest to all seconds: most steps are a little slower
    than the typical one."""
    names = list(fitted.costs)
    expected = [fitted.seconds(sample.load) for sample in samples]
    moved = [
        [sum(own.moved for own in _of_class(sample.load, fitted.classes, name)) for name in names]
        for sample in samples
    ]
    matrix = np.column_stack([expected, np.array(moved, dtype=float)])
    scale = np.maximum(matrix.max(axis=0), 1e-300)
    slower, *moving = (
        non_negative(matrix / scale, np.array([sample.seconds for sample in samples])) / scale
    ).tolist()
    found = fitted.scaled(slower)
    costs = {name: replace(found.costs[name], moved=one) for name, one in zip(names, moving, strict=True)}
    return StepCost(fitted.classes, costs, fitted.reach)


def _of_class(load: Load, classes: Sequence[str], name: str) -> list[MemberLoad]:
    return [own for each, own in zip(classes, load, strict=True) if each == name]


def _features(loads: Sequence[MemberLoad], knees: tuple[int, ...]) -> Array:
    """What the parts of a class are multiplied with: those of ``_PARTS``, then tokens up to each knee and beyond."""
    ramps = sum((_ramps(own.tokens, knees) for own in loads), np.zeros(len(knees) + 1))
    parts = [
        sum(own.tokens > 0 for own in loads),
        sum(own.draws for own in loads),
        sum(own.attended for own in loads),
        sum(own.read for own in loads),
        sum(own.moved for own in loads),
    ]
    return np.concatenate([np.array(parts, dtype=float), ramps])


def _ramps(count: int, knees: tuple[int, ...]) -> Array:
    """How many of ``count`` tokens lie between each two knees; their sum is ``count``."""
    bounds = np.array([0, *knees, np.inf])
    ramps: Array = np.clip(count - bounds[:-1], 0, bounds[1:] - bounds[:-1])
    return ramps
