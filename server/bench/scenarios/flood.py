"""What does a flood by one key cost another?"""

import asyncio
import json
import random
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from server.bench.bodies import Bodies
from server.bench.crowd import Crowd, Shape
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

LONG = 1000
"""Tokens of the long prompts and answers, less what the other of both takes."""

BODY = 700_000
"""Token ids in the large bodies: about 3.1 MB."""

QUIET, FLOODING, CLOCK = "quiet-key", "flooding-key", "clock-key"


SHAPES = (
    Shape("as the others"),
    Shape("short", prompt=4, tokens=1),
    Shape("long prompts", prompt=LONG - 4, tokens=4),
    Shape("long answers", prompt=16, tokens=LONG - 16),
    Shape("n = 8", fields={"n": 8}),
    Shape("scored prompts", prompt=LONG, tokens=0, fields={"echo": True, "logprobs": 5}),
    Shape("texts", prompt="w7 " * 4000, tokens=4, refused=True),
    Shape("large bodies", prompt=BODY, tokens=4, refused=True),
)
"""Of the texts and the large bodies more is read before they are refused than of any others."""


@dataclass(frozen=True, slots=True)
class Sample:
    """From a request to its first token."""

    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Delay:
    """Decode steps from a request of one key to its first token: while nobody else asks, and while another key floods.

    A stream of a third key counts them, which gets one token in every step; it goes on beside both. ``flood``: requests that
    the flooding key has under way for every one of the other; ``answers``: how many of them were answered meanwhile, by status,
    0 where the connection broke.
    ``seconds``: the 95th percentiles of the time that it took, alone and beside the flood.
    """

    name: str
    flood: int
    quiet: tuple[int, ...]
    flooded: tuple[int, ...]
    bar: int
    answers: Mapping[int, int] = field(default_factory=dict)
    seconds: tuple[float, float] = (0.0, 0.0)

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
            "flood_answers": {str(status): count for status, count in sorted(self.answers.items())},
            "quiet_p95_seconds": self.seconds[0],
            "flooded_p95_seconds": self.seconds[1],
        }


def key_under_flood(setup: Setup) -> list[Delay]:
    """One key's requests, one after the other, over HTTP: by themselves, then beside another key's flood of each shape."""
    quiet: list[Sample] = []
    flooded: list[list[Sample]] = [[] for _ in SHAPES]
    answers: list[Counter[int]] = [Counter() for _ in SHAPES]
    with (
        running_server(setup, keys=(QUIET, FLOODING, CLOCK)) as url,
        Crowd(url, FLOODING, FLOOD, _bodies(setup, "flood")) as crowd,
    ):
        for run in range(setup.runs + 1):
            phases = asyncio.run(_phases(url, _bodies(setup, run), crowd, answers))
            if run:  # the first run does not count
                quiet += phases[0]
                for samples, phase in zip(flooded, phases[1:], strict=True):
                    samples += phase
            else:
                for counts in answers:
                    counts.clear()
            setup.tick()
    return [
        Delay(
            f"flood, {shape.name}",
            FLOOD,
            tuple(one.steps for one in quiet),
            tuple(one.steps for one in samples),
            10,
            counts,
            (_p95_seconds(quiet), _p95_seconds(samples)),
        )
        for shape, samples, counts in zip(SHAPES, flooded, answers, strict=True)
    ]


def _p95_seconds(samples: Sequence[Sample]) -> float:
    return round(Percentiles.of([one.seconds for one in samples]).p95, 4)


def _bodies(setup: Setup, part: object) -> Bodies:
    """What one part of the measurement asks for."""
    return Bodies(setup.workload, setup.rewards, random.Random(f"{setup.workload.seed}/{part}"))


async def _phases(
    url: str, bodies: Bodies, crowd: Crowd, answers: Sequence[Counter[int]]
) -> list[list[Sample]]:
    """Samples of the quiet key: alone, then beside each shape of flood, whose ``answers`` are counted."""
    async with _client(url, QUIET) as quiet, _client(url, CLOCK) as ticking:
        clock = Clock()
        async with _beside([_tick(ticking, clock, bodies, first) for first in (1.0, 0.5)]):
            await clock.started.wait()
            phases = [await _samples(quiet, clock, bodies)]
            for shape, counts in zip(SHAPES, answers, strict=True):
                await asyncio.to_thread(crowd.start, shape)
                await asyncio.sleep(1)  # until the batch is full
                await asyncio.to_thread(crowd.count)
                phases.append(await _samples(quiet, clock, bodies))
                counts.update(await asyncio.to_thread(crowd.stop))
                await _subsided(quiet)
            return phases


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


async def _samples(client: httpx.AsyncClient, clock: Clock, bodies: Bodies) -> list[Sample]:
    """Steps to the first token of requests that come one after the other."""
    spans = []
    for _ in range(SAMPLES):
        body = bodies.make(4)
        sent = time.perf_counter()
        first = None
        async for _ in _tokens(client, body):
            first = first or time.perf_counter()
        if first is None:
            raise RuntimeError("a stream ended before its first token")
        spans.append((sent, first))
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)  # until the clock has got what was drawn by then
    return [Sample(clock.steps(sent, first), first - sent) for sent, first in spans]


async def _tick(client: httpx.AsyncClient, clock: Clock, bodies: Bodies, first: float) -> None:
    """Streams one after the other; of the first only a part, so that two of these do not end together."""
    share = first
    while True:
        times = clock.stream()
        async for received in _tokens(client, bodies.make(round(CLOCK_TOKENS * share))):
            times += [time.perf_counter()] * (received - len(times))
            clock.started.set()
        share = 1.0


async def _subsided(client: httpx.AsyncClient) -> None:
    """Returns when nothing of a flood is left but the streams that count steps."""
    while True:
        lines = (await client.get("/metrics")).raise_for_status().text.splitlines()
        under_way = [line for line in lines if line.startswith("genarm_num_requests_")]
        if sum(float(line.split()[-1]) for line in under_way) <= 2:
            return
        await asyncio.sleep(0.1)


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
        # A connection for each request: one that is kept may be closed as idle at the moment in which it is used.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        headers={"authorization": f"Bearer {key}"},
    )
