"""Several owners over real models: a flood delays nobody by much and changes no answer."""

from collections.abc import Callable
from typing import Any

import pytest

from server.engine import Engine, SamplingParams, SequenceRequest

PROMPTS = {"base": list(range(20, 58)), "helpful": list(range(30)), "harmless": [7, 8, 9]}
MIX = {"base": 1.0, "helpful": 0.7, "harmless": -0.3}
LIMITS: dict[str, Any] = {"prefill_chunk": 16, "max_sequences": 4, "deterministic": True, "prefix_share": 0.0}


def request(owner: str, number: int, tokens: int) -> SequenceRequest:
    prompts = {name: prompt[number % 3 :] for name, prompt in PROMPTS.items()}
    return SequenceRequest(
        f"{owner} {number}", prompts, MIX, SamplingParams(tokens, seed=number), owner=owner
    )


def steps_to_first(engine: Engine, asked: SequenceRequest, told: dict[str, list[int]]) -> int:
    """Steps until the first token of ``asked``; everything that is drawn meanwhile goes into ``told``."""
    engine.add(asked)
    for steps in range(1, 200):
        outputs = engine.step()
        take(outputs, told)
        if any(output.id == asked.id for output in outputs):
            return steps
    raise AssertionError("it never began")


def take(outputs: Any, told: dict[str, list[int]]) -> None:
    for output in outputs:
        assert output.error is None
        told.setdefault(output.id, []).append(output.token)


@pytest.mark.parametrize("cache", ["slabs", "pages"])
def test_a_flood_costs_another_owner_few_steps_and_everybody_gets_the_same_answers(
    make_engine: Callable[..., Engine],
) -> None:
    flood = [request("flood", number, 10 + number % 7) for number in range(10)]
    mine = [request("me", number, 5) for number in range(4)]
    quiet, alone = make_engine(**LIMITS), dict[str, list[int]]()
    waits = []
    for one in mine:
        waits.append(steps_to_first(quiet, one, alone))
        while quiet.has_work:
            take(quiet.step(), alone)
    alone |= {name: tokens for one in flood for name, tokens in quiet.generate([one]).items()}

    busy, told = make_engine(**LIMITS), dict[str, list[int]]()
    busy.add(*flood[:1])
    for one in flood[1:]:
        busy.add(one)
    for _ in range(6):
        take(busy.step(), told)
    for one, wait in zip(mine, waits, strict=True):
        assert steps_to_first(busy, one, told) - wait <= 2
        for _ in range(6):
            take(busy.step(), told)
    assert busy.stats().preemptions > 0
    while busy.has_work:
        take(busy.step(), told)
    busy.check_integrity()
    assert told == alone
