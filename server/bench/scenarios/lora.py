"""What do rewards cost that are adapters on the base?"""

from collections.abc import Sequence

from server.bench.cost import Cost, Steps, in_turn
from server.bench.scenarios.cost import CONTEXT, EACH
from server.bench.setup import Setup
from server.bench.steady import Steady

ADAPTERS = 4
BATCHES: dict[int, float | None] = {1: 2.1, 8: None, 32: None}
"""Streams → what a step may cost at most, as a multiple of the base's."""


def adapter_cost(setup: Setup) -> Sequence[Cost]:
    """Steps with four LoRA rewards on the base's own weights against steps of an engine with the base alone."""
    sources = setup.models.adapters(ADAPTERS)
    most = max(BATCHES)
    guided = setup.engine(sources=sources, max_sequences=most)
    plain = setup.engine(sources=sources, guided=False, max_sequences=most)
    mix = {source.name: 1.0 if source.name == "base" else 0.5 for source in sources}
    steps = EACH * (setup.runs + 1)
    context = min(CONTEXT, *guided.max_context.values())
    results = []
    for batch, bar in BATCHES.items():
        ours = Steps(f"{ADAPTERS} LoRA rewards", Steady(guided, batch, context, steps, mix))
        peer = Steps("the base", Steady(plain, batch, context, steps, {"base": 1.0}))
        seconds = in_turn(ours, peer, setup.runs, setup.tick)
        results.append(Cost(f"LoRA rewards at {batch}", ours.label, peer.label, 1.0, bar, *seconds))
    return results
