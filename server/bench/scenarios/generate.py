"""What is one batch of requests with different weights worth?"""

from dataclasses import replace

from server.bench.comparison import Comparison, Side, compare
from server.bench.peer import generate
from server.bench.setup import Setup
from server.bench.workload import output_tokens, sample

STATIC = 32
"""Requests in a static batch of the peer's."""


def against_generate(setup: Setup) -> Comparison:
    """All requests at once through the engine, against one at a time through ``generate`` with a LogitsProcessor.

    The bar is 8, and 6 for the demo, whose models are so small that a step is mostly other work.
    """
    engine, stock = setup.engine(), setup.stock_family()
    requests = setup.workload.build(engine.members["base"].vocab_size, setup.rewards, guided=True)
    alone = sample(requests, setup.limits.peer_requests)
    ours = Side(f"{len(requests)} at once", lambda: engine.generate(requests), output_tokens(requests))
    peer = Side("generate, one at a time", lambda: generate(stock, alone), output_tokens(alone))
    return compare("guided batch", ours, peer, setup.runs, 6.0 if setup.is_demo else 8.0, setup.tick)


def against_static(setup: Setup) -> Comparison:
    """The same against ``generate`` in batches of 32: padded on the left, each as long as its longest response."""
    engine, stock = setup.engine(), setup.stock_family()
    requests = setup.workload.build(engine.members["base"].vocab_size, setup.rewards, guided=True)
    tokens = output_tokens(requests)
    ours = Side(f"{len(requests)} at once", lambda: engine.generate(requests), tokens)
    peer = Side(f"generate, {STATIC} at a time", lambda: generate(stock, requests, STATIC), tokens)
    return compare("static batches", ours, peer, setup.runs, 1.5, setup.tick)


def one_stream(setup: Setup) -> Comparison:
    """One request, of the workload's longest response, against ``generate``."""
    engine, stock = setup.engine(), setup.stock_family()
    built = setup.workload.build(engine.members["base"].vocab_size, setup.rewards, guided=True)
    request = max(built, key=lambda one: one.sampling.max_tokens)
    requests = [replace(request, sampling=replace(request.sampling, seed=1))]
    tokens = output_tokens(requests)
    ours = Side("one stream", lambda: engine.generate(requests), tokens)
    peer = Side("generate, one stream", lambda: generate(stock, requests), tokens)
    return compare("one stream", ours, peer, setup.runs, 1 / 0.75, setup.tick)
