"""What is it worth that a prompt has been read before?"""

import random
import time
from collections.abc import Mapping, Sequence

from server.bench.comparison import Comparison
from server.bench.setup import Setup
from server.engine import Engine, SamplingParams, SequenceRequest

SYSTEM, QUESTION = 1000, 20
"""Tokens of the system prompt that two requests share, and of what each of them asks."""


def second_request(setup: Setup) -> Comparison:
    """Time to the first token behind a system prompt an earlier request had, against that earlier request's."""
    engine = setup.engine(prefix_share=0.5)
    rng = random.Random(setup.workload.seed)
    vocab = engine.members["base"].vocab_size
    system_length = min(SYSTEM, min(engine.max_context.values()) - QUESTION - 1)
    mix = {"base": 1.0} | dict.fromkeys(setup.rewards, 0.5)
    first, second = [], []
    for run in range(setup.runs + 1):
        system = [rng.randrange(vocab) for _ in range(system_length)]
        prompts = [system + [rng.randrange(vocab) for _ in range(QUESTION)] for _ in range(2)]
        rates = [1 / _seconds(engine, prompt, mix) for prompt in prompts]
        if run:  # the first run does not count
            first.append(rates[0])
            second.append(rates[1])
        setup.tick()
    return Comparison(
        "same system prompt",
        "second request",
        "first request",
        5.0,
        tuple(second),
        tuple(first),
        unit="first tokens per second",
    )


def _seconds(engine: Engine, prompt: Sequence[int], mix: Mapping[str, float]) -> float:
    """From the request to its only token."""
    request = SequenceRequest("ttft", dict.fromkeys(mix, prompt), mix, SamplingParams(1))
    started = time.perf_counter()
    engine.generate([request])
    return time.perf_counter() - started
