"""How long prompts and answers are, and how long users think."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of lengths.

    ``constant`` (low = high), ``uniform`` between low and high, ``exponential`` with ``mean``, or ``lognormal`` with ``mean`` and
    ``spread`` (standard deviation over mean); the last two cut off at low and high, which moves their mean where much is cut.
    """

    kind: str
    low: float
    high: float
    mean: float = 0.0
    spread: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Lengths":
        """From ``128``, ``16-256``, ``exponential:100`` or ``lognormal:200,1.2,1-4096`` (mean, spread, bounds).

        Raises:
            ValueError: it is none of these, a number is negative, or the bounds are not in order.
        """
        kind, _, numbers = text.rpartition(":")
        try:
            if kind == "lognormal":
                mean, spread, bounds = numbers.split(",")
                least, most = map(float, bounds.split("-"))
                made = cls(kind, least, most, float(mean), float(spread))
            elif kind == "exponential":
                made = cls(kind, 0.0, float("inf"), float(numbers))
            elif kind == "":
                first, dash, last = numbers.partition("-")
                made = cls("uniform" if dash else "constant", float(first), float(last if dash else first))
            else:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{text!r} is no distribution; write 128, 16-256, exponential:100 or lognormal:200,1.2,1-4096"
            ) from None
        if math.inf in (made.low, made.mean, made.spread) or (
            kind != "exponential" and made.high == math.inf
        ):
            raise ValueError(f"{text!r}: numbers must be finite")
        if not 0 <= made.low <= made.high:
            raise ValueError(f"{text!r}: bounds must be in order and not negative")
        if kind and not made.mean > 0:
            raise ValueError(f"{text!r}: the mean must be above 0")
        if made.spread < 0:
            raise ValueError(f"{text!r}: the spread must not be negative")
        return made

    def draw(self, rng: Generator, count: int) -> NDArray[np.float64]:
        """So many values."""
        if self.kind == "exponential":
            return rng.exponential(self.mean, count)
        if self.kind == "lognormal":
            variance = np.log1p(self.spread**2)
            values = rng.lognormal(np.log(self.mean) - variance / 2, np.sqrt(variance), count)
            bounded: NDArray[np.float64] = np.clip(values, self.low, self.high)
            return bounded
        return rng.uniform(self.low, self.high, count)

    def draw_whole(self, rng: Generator, count: int) -> NDArray[np.int64]:
        """So many whole numbers, at least 1. ``uniform`` takes both bounds as often as what lies between."""
        if self.kind in ("uniform", "constant"):
            values = rng.integers(round(self.low), round(self.high) + 1, count)
        else:
            values = np.rint(self.draw(rng, count)).astype(np.int64)
        whole: NDArray[np.int64] = np.maximum(1, values)
        return whole
