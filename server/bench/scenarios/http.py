"""What does HTTP cost?"""

from typing import Any

from server.bench.client import stream_all
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
        bodies = [body(request) for request in requests]
        ours = Side("streamed over HTTP", lambda: stream_all(url, bodies), tokens)
        peer = Side("engine alone", lambda: engine.generate(requests), tokens)
        return compare("over HTTP", ours, peer, setup.runs, 0.9, setup.tick)


def body(request: SequenceRequest) -> dict[str, Any]:
    """What asks our server for ``request``: a completion of token ids that says with each event how many tokens there are."""
    return {
        "model": "bench",
        "prompt": list(request.prompts["base"]),
        "max_tokens": request.sampling.max_tokens,
        "ignore_eos": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "seed": request.sampling.seed,
        "preferences": {name: weight for name, weight in request.mix.items() if name != "base"},
    }
