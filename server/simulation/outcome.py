"""What came of a simulation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.simulation.gaps import Gaps

PERCENTS = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Window:
    """From ``begin`` to ``end``, in seconds: what is counted. Requests count that came in it, tokens that were drawn in it."""

    begin: float = 0.0
    end: float = math.inf

    def steps(self, started: float, seconds: float, count: int) -> int:
        """Of ``count`` steps of ``seconds`` each, from ``started`` on, those that end in it."""
        first = max(1, math.ceil((self.begin - started) / seconds))
        last = count if math.isinf(self.end) else min(count, math.floor((self.end - started) / seconds))
        return max(0, last - first + 1)


class Records:
    """Of every turn, by its number, in seconds and tokens; not a number where it did not come to that."""

    def __init__(self, turns: int) -> None:
        self.arrived = np.full(turns, np.nan)
        self.first = np.full(turns, np.nan)
        self.ended = np.full(turns, np.nan)
        self.refused = np.zeros(turns, dtype=bool)
        self.tokens = np.zeros(turns, dtype=np.int64)
        self.cached = np.zeros(turns, dtype=np.int64)
        self.replica = np.full(turns, -1, dtype=np.int32)


@dataclass(slots=True)
class Counts:
    """Sums over all replicas and all of the run.

    ``area``: the integral of the requests under way over time. ``busy``: seconds in which a replica had a step. ``usage``: of the
    fullest member's cache, summed over busy seconds. ``window_tokens``: drawn in the window. ``beyond``: steps larger than any
    measured one.
    """

    steps: int = 0
    planned: int = 0
    beyond: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    area: float = 0.0
    busy: float = 0.0
    usage: float = 0.0
    window_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of a sample, by nearest rank; not a number where there is none."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Percentiles":
        """Of these values."""
        if not len(values):
            return cls(math.nan, math.nan, math.nan)
        ordered = np.sort(values)
        return cls(*(float(ordered[math.ceil(percent / 100 * len(ordered)) - 1]) for percent in PERCENTS))

    def as_json(self) -> dict[str, float | None]:
        """For a file; None where there is no sample."""
        values = {"p50": self.p50, "p95": self.p95, "p99": self.p99}
        return {name: None if math.isnan(value) else value for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Outcome:
    """``records`` and ``counts`` of a run of ``replicas`` that ended at ``seconds``; ``gaps`` between tokens."""

    replicas: int
    seconds: float
    window: Window
    records: Records
    counts: Counts
    gaps: Gaps

    @property
    def completed(self) -> int:
        """Requests that were answered."""
        return int(np.isfinite(self.records.ended).sum())

    @property
    def refused(self) -> int:
        """Requests that found the queue full; their sessions ended there."""
        return int(self.records.refused.sum())

    @property
    def unsent(self) -> int:
        """Turns of sessions that had ended before."""
        return int(np.isnan(self.records.arrived).sum())

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return int(self.records.tokens.sum())

    @property
    def throughput(self) -> float:
        """Output tokens per second, of all replicas together."""
        end = min(self.window.end, self.seconds)
        return self.counts.window_tokens / (end - self.window.begin) if end > self.window.begin else 0.0

    def steady(self) -> tuple[float, float]:
        """Requests and output tokens a second between the times at which a fifth and four fifths of the answers had ended.

        Raises:
            ValueError: there are too few answers to tell.
        """
        ended = np.flatnonzero(np.isfinite(self.records.ended))
        order = ended[np.argsort(self.records.ended[ended], kind="stable")]
        inner = order[len(order) // 5 : len(order) * 4 // 5]
        seconds = float(np.ptp(self.records.ended[inner])) if len(inner) > 1 else 0.0
        if not seconds:
            raise ValueError(f"{len(order)} answers are too few to tell how many there are in a second")
        # The first of them only says from when on.
        return (len(inner) - 1) / seconds, float(self.records.tokens[inner[1:]].sum()) / seconds

    @property
    def utilisation(self) -> float:
        """Share of the time in which a replica had a step, on average."""
        return self.counts.busy / (self.seconds * self.replicas) if self.seconds else 0.0

    @property
    def usage(self) -> float:
        """Share of a cache's blocks that answers held, on average while the replica had a step."""
        return self.counts.usage / self.counts.busy if self.counts.busy else 0.0

    @property
    def hit_rate(self) -> float:
        """Share of the prompts' tokens that had been read before and kept."""
        return self.counts.cached_tokens / self.counts.prompt_tokens if self.counts.prompt_tokens else 0.0

    def ttft(self) -> Percentiles:
        """Seconds from arrival to the first token, of the window's requests."""
        return Percentiles.of(self._of_window(self.records.first - self.records.arrived))

    def end_to_end(self) -> Percentiles:
        """Seconds from arrival to the last token."""
        return Percentiles.of(self._of_window(self.records.ended - self.records.arrived))

    def between(self) -> Percentiles:
        """Seconds between tokens, over all of the window's."""
        return Percentiles(*(self.gaps.percentile(percent) for percent in PERCENTS))

    def _of_window(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        arrived = self.records.arrived
        return values[np.isfinite(values) & (arrived >= self.window.begin) & (arrived < self.window.end)]

    def summary(self) -> Mapping[str, Any]:
        """For a table and for a file."""
        return {
            "completed": self.completed,
            "refused": self.refused,
            "unsent": self.unsent,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "throughput": self.throughput,
            "requests_per_second": self._arrivals_per_second(),
            "utilisation": self.utilisation,
            "cache_usage": self.usage,
            "hit_rate": self.hit_rate,
            "preemptions": self.counts.preemptions,
            "steps": self.counts.steps,
            "steps_beyond_measured": self.counts.beyond,
            "under_way": self.counts.area / self.seconds if self.seconds else 0.0,
            "ttft": self.ttft().as_json(),
            "between": self.between().as_json(),
            "end_to_end": self.end_to_end().as_json(),
        }

    def _arrivals_per_second(self) -> float:
        end = min(self.window.end, self.seconds)
        arrived = self.records.arrived
        count = int(((arrived >= self.window.begin) & (arrived < end)).sum())
        return count / (end - self.window.begin) if end > self.window.begin else 0.0
