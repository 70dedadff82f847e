"""Do rewards cost what they weigh?"""

from collections.abc import Sequence

from server.bench.cost import Cost, Steps, in_turn
from server.bench.setup import Setup
from server.bench.steady import Steady
from server.bench.weighing import step_load

BAR = 1.10
EACH = 8
"""Steps of a run."""
CONTEXT = 256


def reward_cost(setup: Setup) -> Sequence[Cost]:
    """A step with the rewards against one of an engine without: at one stream beside the ratio of bytes read, at 32 beside that
    of floating-point operations."""
    expected = _expected(setup)
    guided, plain = setup.engine(max_sequences=32), setup.engine(guided=False, max_sequences=32)
    mix = {"base": 1.0} | dict.fromkeys(setup.rewards, 0.5)
    steps = EACH * (setup.runs + 1)
    context = min(CONTEXT, *guided.max_context.values())
    results = []
    for (batch, unit), ratio in expected.items():
        ours = Steps(f"{len(setup.rewards)} rewards", Steady(guided, batch, context, steps, mix))
        peer = Steps("no rewards", Steady(plain, batch, context, steps, {"base": 1.0}))
        seconds = in_turn(ours, peer, setup.runs, setup.tick)
        results.append(Cost(f"cost at {batch}, by {unit}", ours.label, peer.label, ratio, BAR, *seconds))
    return results


def _expected(setup: Setup) -> dict[tuple[int, str], float]:
    """(batch, unit) → how much more a step has to do with the rewards. The models that say so are gone before any is run."""
    family, alone = setup.stock_family(), setup.stock_family(setup.sources[:1])
    context = min(CONTEXT, *(member.max_length for member in (family.base, *family.rewards)))
    ratios = {}
    for batch, unit in ((1, "bytes"), (32, "flops")):
        guided, plain = (step_load(models, batch, context) for models in (family, alone))
        ratios[(batch, unit)] = getattr(guided, unit) / getattr(plain, unit)
    return ratios
