"""The weights α that the keys move."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from server.terminal.cells import one_line


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward as the server lists it; ``low`` and ``high`` are where keys stop."""

    name: str
    description: str
    default: float
    low: float
    high: float


class Weights:
    """α by reward, and the reward that the keys move."""

    def __init__(self, rewards: Iterable[Reward]) -> None:
        self.rewards = tuple(rewards)
        self._values = {reward.name: reward.default for reward in self.rewards}
        self._chosen = 0

    @property
    def values(self) -> dict[str, float]:
        """A copy: what was sent does not change with the next key."""
        return dict(self._values)

    @property
    def chosen(self) -> str | None:
        """The reward that keys move and text is tinted by; None without rewards."""
        return self.rewards[self._chosen].name if self.rewards else None

    def choose(self, index: int) -> None:
        """The reward at ``index``, if there is one."""
        if 0 <= index < len(self.rewards):
            self._chosen = index

    def turn(self, step: int) -> None:
        """The next reward or the one before, round and round."""
        if self.rewards:
            self._chosen = (self._chosen + step) % len(self.rewards)

    def move(self, step: float) -> None:
        """Moves the chosen weight, as far as its range; one that is outside already is not pulled in."""
        if not self.rewards:
            return
        reward = self.rewards[self._chosen]
        value = self._values[reward.name]
        low, high = min(reward.low, value), max(reward.high, value)
        self._values[reward.name] = min(max(round(value + step, 6), low), high) + 0.0

    def off(self) -> None:
        """The chosen weight to 0."""
        if self.chosen is not None:
            self._values[self.chosen] = 0.0

    def update(self, values: Mapping[str, float]) -> None:
        """Other values for some.

        Raises:
            ValueError: no such reward, or no finite number; then nothing has changed.
        """
        for name, value in values.items():
            if name not in self._values:
                raise ValueError(f"no reward is called {name}; there are {', '.join(self._values) or 'none'}")
            if not math.isfinite(value):
                raise ValueError(f"{name}: {value} is no finite number")
        self._values.update(values)

    def replace(self, values: Mapping[str, float]) -> None:
        """Other values for all; what is left out is 0. Raises ``ValueError`` as ``update`` does."""
        self.update({**dict.fromkeys(self._values, 0.0), **values})


def read_weights(words: Iterable[str]) -> dict[str, float]:
    """``["helpful=1", "concise=0.5"]`` → their weights. Raises ``ValueError`` for what is not written so."""
    values = {}
    for word in words:
        name, equals, number = word.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (name and equals and math.isfinite(value)):
            raise ValueError(f"{word}: write NAME=NUMBER, such as helpful=0.5")
        values[name] = value
    return values


def number(value: float) -> str:
    """A weight as people write it."""
    return f"{value:.4g}"


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """``helpful 0.5→0.7, concise 0→0.2``: the weights that differ."""
    return ", ".join(
        f"{name} {number(before.get(name, 0.0))}→{number(value)}"
        for name, value in after.items()
        if value != before.get(name, 0.0)
    )


def described(weights: Weights, *, settled: bool = True) -> str:
    """``[helpful 0.7] harmless 1``: the chosen one in brackets, with … until the server has it."""
    return " ".join(
        f"[{one_line(name)} {number(value)}{'' if settled else '…'}]"
        if name == weights.chosen
        else f" {one_line(name)} {number(value)} "
        for name, value in weights.values.items()
    )
