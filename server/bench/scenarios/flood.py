"""What does a flood by one key cost another?"""

import asyncio
import json
import random
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from server.bench.latency import Percentiles
from server.bench.result import Row
from server.bench.service import running_server
from server.bench.setup import Setup

FLOOD = 100
"""Requests that the flooding key has under way for every one of the other."""

SAMPLES = 20
"""Requests of the other key in each phase of a run."""

CLOCK_TOKENS = 256
"""Length of the streams that count steps; there are always two, so that one counts while the next begins."""

QUIET, FLOODING, CLOCK = "quiet-key", "flooding-key", "clock-key"


@dataclass(frozen=True, slots=True)
class Delay:
    """Decode steps from a request of one key to its first token: while nobody else asks, and while another key floods.

    A stream of a third key counts them, which gets one token in every step; it goes on beside both. ``flood``: requests that
    the flooding key has under way for every one of the other.
    """

    name: str
    flood: int
    quiet: tuple[int, ...]
    flooded: tuple[int, ...]
    bar: int

    @property
    def growth(self) -> float:
        """Steps by which the flood puts off the 95th percentile."""
        return Percentiles.of(self.flooded).p95 - Percentiles.of(self.quiet).p95

    @property
    def reached(self) -> bool:
        """Whether it grows by no more than the bar."""
        return self.growth <= self.bar

    def row(self) -> Row:
        """Both 95th percentiles, and what lies between them."""
        quiet, flooded = Percentiles.of(self.quiet), Percentiles.of(self.flooded)
        return Row(
            self.name,
            f"TTFT p95 {flooded.p95:.0f} steps under {self.flood} x",
            f"{quiet.p95:.0f} steps alone",
            f"{self.growth:+.0f} steps",
            f"p50 {flooded.p50:.0f} and {quiet.p50:.0f}, {len(self.flooded)} requests each",
            f"≤ {self.bar}",
        )

    def record(self) -> Mapping[str, Any]:
        """All samples."""
        return {
            "name": self.name,
            "flood": self.flood,
            "unit": "decode steps from a request to its first token, as another stream counts them",
            "quiet": self.quiet,
            "flooded": self.flooded,
            "growth": self.growth,
            "bar": self.bar,
        }


def key_under_flood(setup: Setup) -> Delay:
    """One key's requests, one after the other, over HTTP: by themselves, then beside another key's flood."""
    quiet: list[int] = []
    flooded: list[int] = []
    with running_server(setup, keys=(QUIET, FLOODING, CLOCK)) as url:
        for run in range(setup.runs + 1):
            phases = asyncio.run(_phases(url, setup, run))
            if run:  # the first run does not count
                quiet += phases[0]
                flooded += phases[1]
            setup.tick()
    return Delay("flood", FLOOD, tuple(quiet), tuple(flooded), 10)


async def _phases(url: str, setup: Setup, run: int) -> tuple[list[int], list[int]]:
    async with _client(url, QUIET) as quiet, _client(url, FLOODING) as flood, _client(url, CLOCK) as ticking:
        clock = Clock()
        bodies = _Bodies(setup, random.Random(f"{setup.workload.seed}/{run}"))
        async with _beside([_tick(ticking, clock, bodies, first) for first in (1.0, 0.5)]):
            await clock.started.wait()
            alone = await _samples(quiet, clock, bodies)
            async with _beside([_flood(flood, bodies) for _ in range(FLOOD)]):
                await asyncio.sleep(0.2)  # until the batch is full
                return alone, await _samples(quiet, clock, bodies)


class Clock:
    """When the streams that count steps got their tokens, in ``time.perf_counter()``."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self._streams: list[list[float]] = []

    def stream(self) -> list[float]:
        """A stream's times, for it to fill."""
        self._streams.append([])
        return self._streams[-1]

    def steps(self, begin: float, end: float) -> int:
        """Steps between two times: as many as a stream got tokens that got most."""
        return max(bisect_right(times, end) - bisect_right(times, begin) for times in self._streams)


class _Bodies:
    """Completions of random prompts, with weights of which none is 0."""

    def __init__(self, setup: Setup, rng: random.Random) -> None:
        self._setup = setup
        self._rng = rng

    def make(self, tokens: int | None = None, **fields: Any) -> dict[str, Any]:
        """One of ``tokens`` tokens, as long as any of the workload unless told."""
        workload, rng = self._setup.workload, self._rng
        length = rng.randint(*workload.response) if tokens is None else tokens
        return {
            "model": "bench",
            "prompt": [rng.randrange(5, 200) for _ in range(rng.randint(*workload.prompt))],
            "max_tokens": length,
            "min_tokens": length,
            "seed": rng.randrange(1000),
            "preferences": {name: round(rng.uniform(0.1, 2.0), 3) for name in self._setup.rewards},
            **fields,
        }


async def _samples(client: httpx.AsyncClient, clock: Clock, bodies: _Bodies) -> list[int]:
    """Steps to the first token of requests that come one after the other."""
    spans = []
    for _ in range(SAMPLES):
        sent = time.perf_counter()
        first = None
        async for _ in _tokens(client, bodies.make(4)):
            first = first or time.perf_counter()
        if first is None:
            raise RuntimeError("a stream ended before its first token")
        spans.append((sent, first))
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)  # until the clock has got what was drawn by then
    return [clock.steps(*span) for span in spans]


async def _tick(client: httpx.AsyncClient, clock: Clock, bodies: _Bodies, first: float) -> None:
    """Streams one after the other; of the first only a part, so that two of these do not end together."""
    share = first
    while True:
        times = clock.stream()
        async for received in _tokens(client, bodies.make(round(CLOCK_TOKENS * share))):
            times += [time.perf_counter()] * (received - len(times))
            clock.started.set()
        share = 1.0


async def _flood(client: httpx.AsyncClient, bodies: _Bodies) -> None:
    """Requests one after the other, as fast as they are answered or refused."""
    while True:
        answer = await client.post("/v1/completions", json=bodies.make())
        if answer.status_code == 429:
            await asyncio.sleep(0.05)
        else:
            answer.raise_for_status()


async def _tokens(client: httpx.AsyncClient, body: Mapping[str, Any]) -> AsyncIterator[int]:
    """How many tokens there are, whenever there are more."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    streamed = {**body, "stream": True, "stream_options": options}
    async with client.stream("POST", "/v1/completions", json=streamed) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(f"{event['error']}")
                if event["usage"]["completion_tokens"]:
                    yield event["usage"]["completion_tokens"]


@asynccontextmanager
async def _beside(work: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Does ``work`` until the block ends; a fault of it ends the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def _client(url: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=url,
        timeout=300,
        limits=httpx.Limits(max_connections=None),
        headers={"authorization": f"Bearer {key}"},
    )
