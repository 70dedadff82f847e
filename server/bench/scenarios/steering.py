"""How soon does a change of weights hold?"""

import asyncio
import json
import random
import statistics
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from server.bench.result import Row
from server.bench.service import running_server
from server.bench.setup import Setup

TOKENS = 128
"""Length of every stream."""


@dataclass(frozen=True, slots=True)
class Lag:
    """Decode steps between what a client had received when it asked for a change and the first token drawn under it.

    ``lags``: one for every change. 0: the very next token the client receives is drawn under the new weights.
    ``streams``: side by side.
    """

    name: str
    streams: int
    lags: tuple[int, ...]
    bar: int

    @property
    def reached(self) -> bool:
        """Whether no change took longer than the bar."""
        return max(self.lags) <= self.bar

    def row(self) -> Row:
        """The longest; median and 99th percentile."""
        ordered = sorted(self.lags)
        high = ordered[int(0.99 * (len(ordered) - 1))]
        return Row(
            self.name,
            f"{len(ordered)} PATCHes",
            f"{self.streams} streams over HTTP",
            f"{ordered[-1]} steps",
            f"p50 {statistics.median(ordered):.0f}, p99 {high}",
            f"≤ {self.bar}",
        )

    def record(self) -> Mapping[str, Any]:
        """All samples."""
        return {
            "name": self.name,
            "streams": self.streams,
            "unit": "decode steps from what the client had received to the first token under the new weights",
            "lags": self.lags,
            "longest": max(self.lags),
            "bar": self.bar,
        }


def change_lag(setup: Setup) -> Lag:
    """As many streams as the workload has requests, each steered once at a random token, over HTTP."""
    lags: list[int] = []
    with running_server(setup) as url:
        for run in range(setup.runs + 1):
            measured = asyncio.run(_steer_all(url, setup, run))
            lags += measured if run else []  # the first run does not count
            setup.tick()
    return Lag("steering", setup.workload.requests, tuple(lags), 2)


async def _steer_all(url: str, setup: Setup, run: int) -> list[int]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        streams = [
            _steer(client, setup.rewards, random.Random(f"{setup.workload.seed}/{run}/{number}"))
            for number in range(setup.workload.requests)
        ]
        return await asyncio.gather(*streams)


async def _steer(client: httpx.AsyncClient, rewards: list[str], rng: random.Random) -> int:
    """One stream whose weights are changed behind a random token; the lag of the change."""
    body = {
        "model": "bench",
        "prompt": [rng.randrange(5, 200) for _ in range(rng.randint(16, 64))],
        "max_tokens": TOKENS,
        "min_tokens": TOKENS,  # no end-of-text is drawn: with ignore_eos it would be, and would show nothing
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "seed": rng.randrange(1000),
        "preferences": _weights(rewards, rng),
    }
    behind = rng.randint(8, TOKENS - 24)
    change: asyncio.Task[int] | None = None
    received = 0
    async for chunk in _chunks(client, body):
        received = chunk["usage"]["completion_tokens"]
        if change is None and received >= behind:
            change = asyncio.create_task(_change(client, chunk["id"], received, _weights(rewards, rng)))
    if change is None or received != TOKENS:
        raise RuntimeError(f"a stream ended after {received} of {TOKENS} tokens")
    return await change


async def _chunks(client: httpx.AsyncClient, body: Mapping[str, Any]) -> AsyncIterator[Any]:
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])


async def _change(client: httpx.AsyncClient, stream: str, received: int, weights: Mapping[str, float]) -> int:
    answer = await client.patch(f"/v1/completions/{stream}", json={"preferences": weights})
    answer.raise_for_status()
    at_token: int = answer.json()["at_token"]
    return at_token - received


def _weights(rewards: list[str], rng: random.Random) -> dict[str, float]:
    """None of them 0, so that no member has anything to catch up on."""
    return {name: round(rng.uniform(0.1, 2.0), 3) for name in rewards}
