"""What is one batch of requests with different weights worth?"""

from arm_models.loading import Family, load_family
from server.bench.comparison import Comparison, compare
from server.bench.peer import generate_one_by_one
from server.bench.setup import Setup
from server.bench.workload import output_tokens


def against_generate(setup: Setup) -> Comparison:
    """All requests at once through the engine, against one at a time through ``generate`` with a LogitsProcessor."""
    engine = setup.engine()
    stock: Family = load_family(setup.sources[0], setup.sources[1:], attention="sdpa")
    requests = setup.workload.build(engine.members["base"].vocab_size, setup.rewards, guided=True)
    sides = [
        (f"{len(requests)} at once", lambda: engine.generate(requests)),
        ("generate, one at a time", lambda: generate_one_by_one(stock, requests)),
    ]
    return compare("guided batch", sides, output_tokens(requests), setup.runs, 6.0, setup.tick)
