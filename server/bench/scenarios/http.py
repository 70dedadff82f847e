"""What does HTTP cost?"""

import asyncio
import json
from collections.abc import Sequence

import httpx

from server.bench.comparison import Comparison, Side, compare
from server.bench.service import running_server
from server.bench.setup import Setup
from server.bench.workload import output_tokens
from server.engine import SequenceRequest


def over_http(setup: Setup) -> Comparison:
    """The requests streamed by a server in a process of its own, against the engine driven directly in this one."""
    engine = setup.engine()
    requests = setup.workload.build(engine.members["base"].vocab_size, setup.rewards, guided=True)
    with running_server(setup) as url:
        tokens = output_tokens(requests)
        ours = Side("streamed over HTTP", lambda: asyncio.run(_stream_all(url, requests)), tokens)
        peer = Side("engine alone", lambda: engine.generate(requests), tokens)
        return compare("over HTTP", ours, peer, setup.runs, 0.9, setup.tick)


async def _stream_all(url: str, requests: Sequence[SequenceRequest]) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await asyncio.gather(*(_stream(client, request) for request in requests))


async def _stream(client: httpx.AsyncClient, request: SequenceRequest) -> None:
    body = {
        "model": "bench",
        "prompt": list(request.prompts["base"]),
        "max_tokens": request.sampling.max_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": request.sampling.seed,
        "preferences": {name: weight for name, weight in request.mix.items() if name != "base"},
    }
    written = 0
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {") and '"usage":{' in line:
                written = json.loads(line[6:])["usage"]["completion_tokens"]
    if written != request.sampling.max_tokens:
        raise RuntimeError(f"a stream ended after {written} of {request.sampling.max_tokens} tokens")
