"""Reads completions streamed by a server and notes when every token came."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx

from server.bench.latency import Timeline

SECONDS = 1200.0
"""After which a silent server counts as broken."""


class StreamError(RuntimeError):
    """A stream that ended with an error, or not where it should."""


def stream_all(
    url: str, bodies: Sequence[Mapping[str, Any]], arrivals: Sequence[float] | None = None
) -> list[Timeline]:
    """POST every body to ``/v1/completions``, each with ``max_tokens`` and to end nowhere else, and read all of it.

    Args:
        url: of the server.
        bodies: ``stream`` is added to them.
        arrivals: seconds from now at which each is sent; None: all at once.

    Raises:
        StreamError: an error in a stream, or fewer or more tokens than asked for.
        httpx.HTTPError: the server refused, or could not be reached.
    """
    return asyncio.run(_stream_all(url, bodies, arrivals or [0.0] * len(bodies)))


async def _stream_all(
    url: str, bodies: Sequence[Mapping[str, Any]], arrivals: Sequence[float]
) -> list[Timeline]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=SECONDS, limits=limits) as client:
        begun = time.perf_counter()
        pairs = zip(bodies, arrivals, strict=True)
        streams = (_stream(client, body, begun + arrival) for body, arrival in pairs)
        return await asyncio.gather(*streams)


async def _stream(client: httpx.AsyncClient, body: Mapping[str, Any], arrival: float) -> Timeline:
    await asyncio.sleep(arrival - time.perf_counter())
    times: list[float] = []
    written = 0
    async with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
        response.raise_for_status()
        async for event in events(response):
            usage = event.get("usage")
            # A server that counts as it goes may send several tokens in one event; one that does not sends one in each.
            written = usage["completion_tokens"] if usage else written + 1
            times += [time.perf_counter()] * (written - len(times))
    if len(times) != body["max_tokens"]:
        raise StreamError(f"a stream ended after {len(times)} of {body['max_tokens']} tokens")
    return Timeline(arrival, tuple(times))


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream as they come, but for its last word.

    Raises:
        StreamError: one of them is an error.
    """
    async for line in response.aiter_lines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise StreamError(f"{event['error']}")
        yield event
