"""Simulated users before real servers: they come, read, think and come again; a policy of the simulation sends each request to
one of several servers.

Everything is as in :mod:`server.simulation.cluster`, with servers in the place of replicas, and comes back as the same
:class:`~server.simulation.outcome.Records`.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx

from server.bench.client import StreamError, events
from server.bench.scale.recording import WEIGHT
from server.bench.scale.tokens import tokens_of
from server.simulation.gaps import Gaps
from server.simulation.outcome import Counts, Outcome, Records, Window
from server.simulation.request import Request
from server.simulation.routing import Router
from server.simulation.traffic import Traffic

SECONDS = 900.0
"""After which a silent server counts as broken."""


@dataclass(frozen=True, slots=True)
class Served:
    """How requests are put to the servers: the names of the rewards in the simulation's order, and the vocabulary that prompts
    are drawn from. Under another ``salt`` the same users say something else, of which no server has kept anything."""

    rewards: Sequence[str]
    vocab: int
    salt: str = ""

    def body(self, request: Request) -> dict[str, Any]:
        """What asks for a simulated request: a completion of token ids that ends nowhere but where it should."""
        weighed = {self.rewards[member - 1]: WEIGHT for member in request.members if member}
        return {
            "model": "bench",
            "prompt": tokens_of(request.prompt, self.vocab, self.salt),
            "max_tokens": request.output,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "seed": request.number,
            "preferences": {name: weighed.get(name, 0.0) for name in self.rewards},
        }


def play(
    urls: Sequence[str],
    served: Served,
    traffic: Traffic,
    router: Router,
    tick: Callable[[], object] = lambda: None,
) -> Outcome:
    """All of the traffic, from now on; what came of it, in seconds from now. Of the counts only the tokens are known.

    Raises:
        StreamError: an error in a stream, or fewer or more tokens than asked for.
        httpx.HTTPError: a server refused for another reason than a full queue, or could not be reached.
    """
    # Prompts are written before the clock runs.
    bodies = {request.number: json.dumps(served.body(request)).encode() for request in traffic.requests()}
    return asyncio.run(_Users(urls, traffic, router, bodies, tick).all())


class _Users:
    def __init__(
        self,
        urls: Sequence[str],
        traffic: Traffic,
        router: Router,
        bodies: Mapping[int, bytes],
        tick: Callable[[], object],
    ) -> None:
        self._urls = urls
        self._traffic = traffic
        self._router = router
        self._bodies = bodies
        self._tick = tick
        self._loads = [0] * len(urls)
        self._records = Records(len(traffic))
        self._gaps = Gaps()
        self._seats = asyncio.Semaphore(traffic.at_once or traffic.sessions)
        self._began = 0.0

    @property
    def _now(self) -> float:
        return time.perf_counter() - self._began

    async def all(self) -> Outcome:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(timeout=SECONDS, limits=limits, trust_env=False) as client:
            self._began = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for session in range(self._traffic.sessions):
                    group.create_task(self._session(client, session))
        tokens = int(self._records.tokens.sum())
        counts = Counts(window_tokens=tokens)
        return Outcome(len(self._urls), self._now, Window(), self._records, counts, self._gaps)

    async def _session(self, client: httpx.AsyncClient, session: int) -> None:
        if self._traffic.at_once is None:
            await asyncio.sleep(self._traffic.starts[session] - self._now)
        async with self._seats:  # whoever came first is next
            await self._turns(client, session)

    async def _turns(self, client: httpx.AsyncClient, session: int) -> None:
        for turn in range(self._traffic.counts[session]):
            if turn:
                await asyncio.sleep(self._traffic.think(session, turn))
            if not await self._turn(client, self._traffic.request(session, turn)):
                return

    async def _turn(self, client: httpx.AsyncClient, request: Request) -> bool:
        """One request; False where the queue was full."""
        records, number = self._records, request.number
        records.arrived[number] = self._now
        replica = self._router.choose(request, self._loads)
        records.replica[number] = replica
        self._loads[replica] += 1
        try:
            times = await self._stream(client, self._urls[replica], number, request.output)
        finally:
            self._loads[replica] -= 1
            self._tick()
        if not times:
            records.refused[number] = True
            return False
        for earlier, later in pairwise(times):
            self._gaps.add(later - earlier)
        records.first[number], records.ended[number] = times[0], times[-1]
        records.tokens[number] = len(times)
        return True

    async def _stream(self, client: httpx.AsyncClient, url: str, number: int, wanted: int) -> list[float]:
        """When each token came; nothing where the queue was full."""
        headers = {"content-type": "application/json"}
        times: list[float] = []
        body = self._bodies[number]
        async with client.stream("POST", f"{url}/v1/completions", content=body, headers=headers) as response:
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                return []
            response.raise_for_status()
            async for event in events(response):
                # An event may bring several tokens, where the text of one was not yet whole characters.
                times += [self._now] * (event["usage"]["completion_tokens"] - len(times))
        if len(times) != wanted:
            raise StreamError(f"a stream ended after {len(times)} of {wanted} tokens")
        return times
