"""When tokens came: percentiles over all of them, and which requests were served well."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise


@dataclass(frozen=True, slots=True)
class Timeline:
    """One streamed response, in seconds of one clock.

    ``arrived``: when it was due to be sent; waiting for the client itself counts. ``tokens``: when each of its tokens came.
    """

    arrived: float
    tokens: tuple[float, ...]

    @property
    def ttft(self) -> float:
        """Time to the first token."""
        return self.tokens[0] - self.arrived

    @property
    def gaps(self) -> list[float]:
        """Time between neighbouring tokens; 0 for those that came in one event."""
        return [later - earlier for earlier, later in pairwise(self.tokens)]

    @property
    def mean_gap(self) -> float:
        """Time a token took on average behind the first; 0 where there was only one."""
        return (self.tokens[-1] - self.tokens[0]) / max(1, len(self.tokens) - 1)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of a sample, each a value of it that so many percent do not exceed."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Percentiles":
        """By nearest rank. Raises ``ValueError`` where there are no values."""
        ordered = sorted(values)
        if not ordered:
            raise ValueError("percentiles of nothing")
        ranks = (math.ceil(percent / 100 * len(ordered)) for percent in (50, 95, 99))
        return cls(*(ordered[rank - 1] for rank in ranks))


def all_gaps(timelines: Iterable[Timeline]) -> list[float]:
    """Every time between two tokens of one response, over all responses."""
    return list(chain.from_iterable(timeline.gaps for timeline in timelines))


def tokens_per_second(timelines: Sequence[Timeline]) -> float:
    """Output tokens over the time from the first arrival to the last token."""
    begun = min(timeline.arrived for timeline in timelines)
    ended = max(timeline.tokens[-1] for timeline in timelines)
    return sum(len(timeline.tokens) for timeline in timelines) / (ended - begun)


def goodput(timelines: Sequence[Timeline], ttft: float, itl: float) -> float:
    """Share of requests whose first token came within ``ttft`` seconds and whose others took at most ``itl`` on average."""
    good = [timeline.ttft <= ttft and timeline.mean_gap <= itl for timeline in timelines]
    return sum(good) / len(good)
