"""What is a sweep of weights over the same prompts worth in one batch?"""

from collections.abc import Sequence
from dataclasses import replace

from server.bench.comparison import Comparison, Side, compare_all
from server.bench.peer import generate
from server.bench.setup import Setup
from server.bench.workload import output_tokens, sample
from server.engine import Engine, SequenceRequest, TokenOutput

VECTORS = 11


def weight_sweep(setup: Setup) -> Sequence[Comparison]:
    """Eleven weight vectors to every prompt, a prompt's in one group that reads it once, against one request at a time: through
    ``generate``, and through the same engine.

    One at a time takes so long that in a run it writes a sample of them.
    """
    engine, stock = setup.engine(max_sequences=2 * setup.workload.requests), setup.stock_family()
    prompts = setup.workload.build(engine.members["base"].vocab_size, setup.rewards, guided=True)
    groups = [vectors_of(request) for request in prompts]
    flat = [request for group in groups for request in group]
    each_once = [group[number % VECTORS] for number, group in enumerate(groups)]
    alone = sample(each_once, setup.limits.peer_requests)
    tokens = output_tokens(alone)
    ours = Side(
        f"{VECTORS} vectors at once",
        lambda: all_at_once(engine, groups),
        output_tokens(flat),
        warm=lambda: all_at_once(engine, groups[:1]),
    )
    peers = {
        "sweep": Side("generate, one at a time", lambda: generate(stock, alone), tokens),
        "sweep, same engine": Side(
            "engine, one at a time", lambda: [engine.generate([one]) for one in alone], tokens
        ),
    }
    return compare_all(ours, peers, setup.runs, 8.0, setup.tick)


def vectors_of(request: SequenceRequest) -> list[SequenceRequest]:
    """The first reward from 0 to 1 while the others go from 1 to 0; first those in which all are weighted, so that what the
    group shares is read for all."""
    first, *others = [name for name in request.mix if name != "base"]
    steps = sorted((number / (VECTORS - 1) for number in range(VECTORS)), key=lambda step: step in (0, 1))
    mixes = [{"base": 1.0, first: step} | dict.fromkeys(others, 1 - step) for step in steps]
    return [replace(request, id=f"{request.id}/{number}", mix=mix) for number, mix in enumerate(mixes)]


def all_at_once(engine: Engine, groups: Sequence[Sequence[SequenceRequest]]) -> list[TokenOutput]:
    """Every answer of every group in one batch; all tokens."""
    for group in groups:
        engine.add(*group)
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    return outputs
