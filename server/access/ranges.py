"""Which weights are allowed. A weight is what a request makes of a preference, α/β; what it leaves out weighs 0."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from server.errors import InvalidRequest

ROUNDING = 1e-9
"""How far a weight may be outside, as a share of the bound: α/β does not always come out even."""


@dataclass(frozen=True, slots=True)
class Range:
    """The weights from ``low`` to ``high``, both allowed; infinite where there is no bound."""

    low: float = -math.inf
    high: float = math.inf

    @classmethod
    def of(cls, bounds: tuple[float | None, float | None]) -> Range:
        """A range as a configuration declares it, None being no bound."""
        low, high = bounds
        return cls(-math.inf if low is None else low, math.inf if high is None else high)

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """The range as a configuration declares it."""
        return (
            None if self.low == -math.inf else self.low,
            None if self.high == math.inf else self.high,
        )

    def __contains__(self, weight: float) -> bool:
        below = math.isfinite(self.low) and weight < self.low - ROUNDING * abs(self.low)
        above = math.isfinite(self.high) and weight > self.high + ROUNDING * abs(self.high)
        return not (below or above)

    def __and__(self, other: Range) -> Range:
        """The weights in both.

        Raises:
            ValueError: there are none.
        """
        both = Range(max(self.low, other.low), min(self.high, other.high))
        if both.low > both.high:
            raise ValueError(f"no weight is {self} and {other}")
        return both

    def nearest(self, weight: float) -> float:
        """The weight itself if it is in the range, else the bound that it is beyond."""
        return min(max(weight, self.low), self.high)

    def part(self, low: float, high: float) -> tuple[float, float]:
        """What is in the range of the weights from ``low`` to ``high``; where that is no stretch, one as wide from its near bound
        on. In a range of a single weight it is that weight twice.
        """
        first, last = self.nearest(low), self.nearest(high)
        if first < last:
            return first, last
        if first == self.low:
            return first, self.nearest(first + high - low)
        return self.nearest(last - high + low), last

    def __str__(self) -> str:
        if self.low == self.high:
            return f"exactly {self.low:g}"
        if self.high == math.inf:
            return f"at least {self.low:g}"
        if self.low == -math.inf:
            return f"at most {self.high:g}"
        return f"from {self.low:g} to {self.high:g}"


def intersected(one: Mapping[str, Range], other: Mapping[str, Range]) -> dict[str, Range]:
    """The ranges that keep to both, by name.

    Raises:
        ValueError: no weight does; names whose.
    """
    both = dict(one)
    for name, range_ in other.items():
        try:
            both[name] = both.get(name, Range()) & range_
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return both


def check_weights(
    ranges: Mapping[str, Range],
    *,
    drawn: Mapping[str, float],
    judged: Mapping[str, float],
    fades: bool,
    asked: Collection[str],
) -> None:
    """Refuses weights outside ``ranges``.

    Args:
        ranges: by name; names that are not in it may have any weight.
        drawn: the weight of each name in what answers are drawn from; a name that is not in it weighs 0.
        judged: the weight of each name in what drawn answers are chosen by.
        fades: whether the drawn weights may be scaled down to 0 while an answer is made.
        asked: the names that are in ``preferences``, where a refusal is to point.

    Raises:
        InvalidRequest: names the weight, what is allowed and what the request makes of it.
    """
    for name, allowed in ranges.items():
        param = f"preferences.{name}" if name in asked else "guidance"
        rule = f"'{name}' has to weigh {allowed} here (α/β)"
        weight = drawn.get(name, 0.0)
        if weight not in allowed:
            told = f"its weight is {weight:g}" if name in drawn else "answers are drawn without it"
            raise _refusal(f"{rule}; in this request {told}.", param)
        if fades and 0.0 not in allowed:
            raise _refusal(f"{rule}; guidance.max_kl may take weights down to 0.", "guidance.max_kl")
        if name in judged and judged[name] not in allowed:
            raise _refusal(f"{rule}; in this request answers are chosen by it at {judged[name]:g}.", param)


def _refusal(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="weight_not_allowed")
