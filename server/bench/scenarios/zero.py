"""Does a reward at weight 0 cost anything?"""

from server.bench.comparison import Comparison, Side, compare
from server.bench.setup import Setup
from server.bench.workload import output_tokens


def weight_zero(setup: Setup) -> Comparison:
    """A server with rewards whose weights are all 0, against the same server without rewards."""
    with_rewards, without = setup.engine(), setup.engine(guided=False)
    vocab = with_rewards.members["base"].vocab_size
    zero = setup.workload.build(vocab, setup.rewards, guided=False)
    plain = setup.workload.build(vocab, [], guided=False)
    tokens = output_tokens(zero)
    ours = Side("rewards at weight 0", lambda: with_rewards.generate(zero), tokens)
    peer = Side("no rewards", lambda: without.generate(plain), tokens)
    return compare("weight 0", ours, peer, setup.runs, 0.97, setup.tick)
