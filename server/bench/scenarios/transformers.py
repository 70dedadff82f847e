"""What does the base alone give from our server, and from transformers' own?"""

from collections.abc import Sequence
from typing import Any

from server.bench.client import stream_all
from server.bench.comparison import Comparison, Side, compare
from server.bench.service import running_server, transformers_server
from server.bench.setup import Setup
from server.bench.workload import output_tokens
from server.engine import SequenceRequest


def against_transformers(setup: Setup) -> Comparison:
    """The same requests of the base alone, all at once over HTTP, from a server of ours without rewards and from ``transformers
    serve --continuous-batching``, each in a process of its own.

    Both get text, greedy: the latter takes no token ids, and a request's temperature from whoever came first.
    """
    base = setup.stock_family(setup.sources[:1]).base
    requests = setup.workload.build(base.vocab_size, [], guided=False)
    tokens = output_tokens(requests)
    common = [_body(request, base.tokenizer) for request in requests]
    # With what the others have no name for; theirs has a copy of the base without end-of-text instead.
    own: dict[str, Any] = {"model": "bench", "ignore_eos": True}
    own["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    with running_server(setup, guided=False) as url, transformers_server(setup) as (their_url, model):
        ours = Side("our server, base alone", lambda: stream_all(url, _with(common, own)), tokens)
        theirs = _with(common, {"model": model})
        peer = Side("transformers serve", lambda: stream_all(their_url, theirs), tokens)
        return compare("base over HTTP", ours, peer, setup.runs, 0.0, setup.tick)


def _body(request: SequenceRequest, tokenizer: Any) -> dict[str, Any]:
    text = tokenizer.decode(list(request.prompts["base"]))
    return {"prompt": text, "max_tokens": request.sampling.max_tokens, "temperature": 0.0}


def _with(bodies: Sequence[dict[str, Any]], more: dict[str, Any]) -> list[dict[str, Any]]:
    return [body | more for body in bodies]
