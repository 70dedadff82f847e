"""How is everybody served when requests come as they please?"""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.bench.client import stream_all
from server.bench.latency import Percentiles, Timeline, all_gaps, goodput, tokens_per_second
from server.bench.result import Row
from server.bench.scenarios.http import body
from server.bench.service import running_server
from server.bench.setup import Setup

SHARES = (0.5, 0.8, 1.0)
"""Of the measured capacity: the rates of arrival where none are given."""


@dataclass(frozen=True, slots=True)
class Serving:
    """Streams of all requests at a ``rate`` of arrivals per second, one list for each run; ``capacity``: requests per second
    where all come at once. ``ttft``, ``itl``: seconds a request may wait for its first token, and on average for the next."""

    rate: float
    capacity: float
    runs: tuple[tuple[Timeline, ...], ...]
    ttft: float
    itl: float

    @property
    def reached(self) -> bool:
        """There is no bar."""
        return True

    @property
    def timelines(self) -> list[Timeline]:
        """Of all runs."""
        return [timeline for run in self.runs for timeline in run]

    @property
    def first(self) -> Percentiles:
        """Seconds to the first token."""
        return Percentiles.of(timeline.ttft for timeline in self.timelines)

    @property
    def between(self) -> Percentiles:
        """Seconds between tokens, over all of them."""
        return Percentiles.of(all_gaps(self.timelines))

    @property
    def output(self) -> float:
        """Output tokens per second of the median run."""
        return statistics.median(tokens_per_second(run) for run in self.runs)

    def row(self) -> Row:
        """Percentiles 50, 95 and 99, output, and the share that was served within the limits."""
        first, between = self.first, self.between
        good = goodput(self.timelines, self.ttft, self.itl)
        return Row(
            f"served at {self.rate:.2f}/s, {self.rate / self.capacity:.2f} of capacity",
            f"TTFT {first.p50:.2f} {first.p95:.2f} {first.p99:.2f} s",
            f"ITL {1000 * between.p50:.0f} {1000 * between.p95:.0f} {1000 * between.p99:.0f} ms",
            f"{self.output:.0f} tokens/s",
            f"goodput {good:.2f} ({self.ttft:g} s, {1000 * self.itl:g} ms)",
            "none",
        )

    def record(self) -> Mapping[str, Any]:
        """Percentiles, and of every request the time to its first token and its mean time between tokens."""
        first, between = self.first, self.between
        return {
            "name": f"serving at {self.rate / self.capacity:.2f} of capacity",
            "unit": "seconds",
            "requests_per_second": self.rate,
            "capacity_requests_per_second": self.capacity,
            "ttft": {"p50": first.p50, "p95": first.p95, "p99": first.p99},
            "itl": {"p50": between.p50, "p95": between.p95, "p99": between.p99},
            "itl_samples": len(all_gaps(self.timelines)),
            "output_tokens_per_second": self.output,
            "goodput": goodput(self.timelines, self.ttft, self.itl),
            "limits": {"ttft": self.ttft, "itl": self.itl},
            "requests": [[(line.ttft, line.mean_gap) for line in run] for run in self.runs],
        }


def poisson_serving(setup: Setup) -> Sequence[Serving]:
    """Ragged requests with different weights that arrive at random at a server in a process of its own, at several rates."""
    base = setup.stock_family(setup.sources[:1]).base
    requests = setup.workload.build(base.vocab_size, setup.rewards, guided=True)
    bodies = [body(request) for request in requests]
    results = []
    with running_server(setup) as url:
        capacity = _capacity(url, bodies, setup)
        for rate in setup.limits.rates or [share * capacity for share in SHARES]:
            runs = []
            for run in range(setup.runs):
                arrivals = poisson(rate, len(bodies), seed=f"{setup.workload.seed}/{run}")
                runs.append(tuple(stream_all(url, bodies, arrivals)))
                setup.tick()
            results.append(Serving(rate, capacity, tuple(runs), setup.limits.ttft, setup.limits.itl))
    return results


def poisson(rate: float, count: int, seed: str) -> list[float]:
    """``count`` times in seconds, the first 0, behind each of which the next comes after an exponential wait: ``rate`` a second
    on average."""
    rng = random.Random(seed)
    times = [0.0]
    while len(times) < count:
        times.append(times[-1] + rng.expovariate(rate))
    return times


def _capacity(url: str, bodies: Sequence[Mapping[str, Any]], setup: Setup) -> float:
    """Requests per second where all come at once; the median of the runs but the first."""
    rates = []
    for _ in range(min(setup.runs, 3) + 1):
        lines = stream_all(url, bodies)
        rates.append(len(lines) / (max(line.tokens[-1] for line in lines) - lines[0].arrived))
        setup.tick()
    return statistics.median(rates[1:])
